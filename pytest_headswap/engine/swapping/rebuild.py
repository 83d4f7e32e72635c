"""Build a model again from the configuration that it stores, to see what its library changes with the class count.

`from_pretrained` builds the class from the stored configuration and then loads the tensors. A swap is complete if a
model that is built from the configuration has the shapes of the swapped model.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from pytest_headswap.engine.abstract.meta_cache import MetaInitContext
from pytest_headswap.engine.abstract.stand_ins import preserve_global_state
from pytest_headswap.engine.pytorch.modules import named_buffers, named_parameters
from pytest_headswap.engine.swapping.class_names import new_names, read_names
from pytest_headswap.engine.swapping.numbers_around import NumbersAround
from pytest_headswap.engine.swapping.options import HeadSwap
from pytest_headswap.engine.swapping.stored_numbers import StoredNumber, numbers_of, places_of
from pytest_headswap.engine.swapping.transaction import Transaction
from pytest_headswap.engine.swapping.unseen_heads import unseen_heads

_MAX_TRIED = 8
_MAX_NAMED = 4
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Rebuilt:
    """What a model shows that was built again.

    Attributes:
        unseen: swaps of heads that depend on the class count, and that no output shows.
        explained: ids of the objects that the model was built from; their numbers are right.
        notes: what the user should know.
    """

    unseen: tuple[HeadSwap, ...] = ()
    explained: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


def follow_rebuilt(model: nn.Module, around: NumbersAround, used: Collection[str], changes: Transaction) -> Rebuilt:
    """Build the model again, and let the numbers of its configuration follow with which it gets the new shapes.

    `used` are the names of the tensors that some output depends on: these belong to no head that no output shows.
    """
    if not callable(getattr(type(model), "from_pretrained", None)) or (built := _build(model)) is None:
        return Rebuilt()
    wrong = _different(built, _shapes(model))
    old_built, ignored = built, Shapes()
    if wrong:
        changes.roll_back()
        try:
            old_built, old = _build(model) or {}, _shapes(model)
        finally:
            changes.replay()
        ignored = _different(old_built, old)
        wrong = _without(wrong, ignored)
    unused = old_built.keys() - set(used)

    def unseen_in(wrong: Shapes, swaps: Iterable[HeadSwap] = around.swaps) -> dict[str, list[int]]:
        counts = dict.fromkeys((swap.old_count, swap.new_count) for swap in swaps)
        pairs = [(name, old_built[name], shape) for name, shape in wrong.items() if name in unused]
        return {name: dims for (*count,) in counts for name, old, new in pairs if (dims := _changed(old, new, *count))}

    left = wrong.keys() - unseen_in(wrong)
    for follow in _followers(model, around, changes) if left else ():
        savepoint = changes.savepoint()
        follow()
        trial = _build(model) or {}
        still = _without(_different(trial, _shapes(model)), ignored)
        if trial and len(still.keys() - unseen_in(still)) < len(left):
            wrong, left = still, still.keys() - unseen_in(still)
        else:
            changes.undo_since(savepoint)
    unseen = tuple(
        HeadSwap(item, replace(swap.options, new_head=None), swap.classes)
        for swap in {(swap.old_count, swap.new_count): swap for swap in reversed(around.swaps)}.values()
        for item in unseen_heads(model, unseen_in(wrong, [swap]), swap.old_count)
    )
    if left:
        listed = ", ".join(f"{name} has shape {wrong[name]}" for name in sorted(left)[:_MAX_NAMED])
        note = (
            f"in a {type(model).__name__} built from its configuration, {listed}, so from_pretrained cannot load this "
            "model once it is saved. Save its state_dict, and swap again before you load it"
        )
        return Rebuilt(unseen, notes=(note,))
    return Rebuilt(unseen, frozenset(map(id, (_recorded(model), *_arguments(model).values()))))


def _followers(model: nn.Module, around: NumbersAround, changes: Transaction) -> list[Callable[[], None]]:
    """Return functions that change a stored number, and those of that name, to the new class count, or one less."""
    followers: list[Callable[[], None]] = []
    for old, new in dict.fromkeys((swap.old_count, swap.new_count) for swap in around.swaps):
        followers += _followers_of_count(model, around, old, new, changes)
    return followers


def _followers_of_count(
    model: nn.Module, around: NumbersAround, old: int, new: int, changes: Transaction
) -> list[Callable[[], None]]:
    numbers = [number for number in around.near if number.current() == number.value and number.value == old]
    followers = [_setter(numbers, name, new, changes) for name in dict.fromkeys(number.name for number in numbers)]
    names = [found for place, value in places_of(model, "") if (found := read_names(place, value, old - 1))]
    mappings = [item for item in names if item.kind != "list"]
    if mappings:  # the library adds a class of its own, such as "no object"

        def rename() -> None:
            for item in mappings:
                item.place.put(item.renamed(new_names(new - 1, None, item.names, {})), changes)

        followers.append(rename)
    fewer = [number for number in numbers_of(model, "") if number.value == old - 1]
    followers += [_setter(fewer, name, new - 1, changes) for name in dict.fromkeys(number.name for number in fewer)]
    return followers[:_MAX_TRIED]


def _setter(numbers: Sequence[StoredNumber], name: str, new: int, changes: Transaction) -> Callable[[], None]:
    def follow() -> None:
        for number in numbers:
            if number.name == name:
                number.set(new, changes)

    return follow


def _parameters(model: nn.Module) -> dict[str, inspect.Parameter]:
    return dict(list(inspect.signature(type(model).__init__).parameters.items())[1:])


def _recorded(model: nn.Module) -> dict[str, Any]:
    """Return the mapping in which the model recorded its constructor arguments, or its attributes."""
    names = _parameters(model).keys()
    mappings = (value for value in vars(model).values() if isinstance(value, dict) and value)
    return next((value for value in mappings if value.keys() <= names), vars(model))


def _arguments(model: nn.Module) -> dict[str, Any]:
    """Return the constructor arguments that the model stores: under their names or longer ones, or in one mapping."""
    parameters, stored = _parameters(model), _recorded(model)
    found = {}
    for name in parameters:
        key = name if name in stored else next((key for key in stored if key.endswith(f"_{name}")), None)
        if key is not None:
            found[name] = stored[key]
    missing = [
        name
        for name, parameter in parameters.items()
        if name not in found and parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if parameter.kind is not parameter.VAR_POSITIONAL
    ]
    if missing or not found:
        raise LookupError(f"{type(model).__name__} does not store {', '.join(missing)}")
    return found


def _build(model: nn.Module) -> Shapes | None:
    try:
        with preserve_global_state(), warnings.catch_warnings(), MetaInitContext():
            warnings.simplefilter("ignore")
            return _shapes(type(model)(**copy.deepcopy(_arguments(model))))
    except Exception:  # noqa: BLE001 - a constructor may raise anything
        return None


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in (*named_parameters(model), *named_buffers(model))}


def _different(built: Shapes, own: Shapes) -> Shapes:
    return {name: shape for name, shape in built.items() if name in own and own[name] != shape}


def _without(shapes: Shapes, names: Iterable[str]) -> Shapes:
    ignored = set(names)
    return {name: shape for name, shape in shapes.items() if name not in ignored}


def _changed(before: Sequence[int], after: Sequence[int], old: int, new: int) -> list[int]:
    """Return the dimensions that followed the class count, empty if another one changed too."""
    if len(before) != len(after):
        return []
    dims = [dim for dim, sizes in enumerate(zip(before, after, strict=True)) if sizes[0] != sizes[1]]
    return dims if all((before[dim], after[dim]) == (old, new) for dim in dims) else []
