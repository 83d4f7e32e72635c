"""Find the names of classes that a model stores, and update them when its head changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from torch import nn

from pytest_headswap._numbers import as_count
from pytest_headswap.engine.pytorch.modules import named_modules, parameters_of
from pytest_headswap.engine.swapping.class_metadata import config_of
from pytest_headswap.engine.swapping.options import HeadSwap
from pytest_headswap.engine.swapping.stored_numbers import Place
from pytest_headswap.engine.swapping.transaction import Transaction

_MAX_NAMED = 6
_GENERATED = re.compile(r"LABEL_\d+")


@dataclass(frozen=True, eq=False)
class StoredNames:
    """A collection with one name for each old class.

    Attributes:
        place: where it is stored.
        names: the names in the order of the classes.
        kind: `by index` for a mapping of index to name, `by name` for the inverse, `list`, or `set`, which has no
            order. Only the first shows by itself that it names classes: other names are stored in lists too.
    """

    place: Place
    names: tuple[str, ...]
    kind: str

    def renamed(self, names: Sequence[str]) -> Any:
        """Return the collection with other names, in the type of the old one."""
        value = self.place.get()
        if self.kind in ("list", "set"):
            return type(value)(names)
        keys_are_text = any(isinstance(item, str) for item in (value if self.kind == "by index" else value.values()))
        indices = [str(index) if keys_are_text else index for index in range(len(names))]
        pairs = zip(indices, names, strict=True) if self.kind == "by index" else zip(names, indices, strict=True)
        return dict(pairs) if type(value) is dict else _filled(value, dict(pairs))


def _filled(value: Any, items: dict[Any, Any]) -> Any:
    try:
        return type(value)(items)
    except Exception:  # noqa: BLE001 - the constructor of a user's mapping may take other arguments
        return items


def read_names(place: Place, value: Any, count: int) -> StoredNames | None:
    """Return the names if `value` holds one for each of `count` classes."""
    if not isinstance(value, (Mapping, list, tuple, Set)) or len(value) != count or not count:
        return None
    if isinstance(value, Set):
        is_text = count > 1 and all(isinstance(item, str) for item in value)
        return StoredNames(place, tuple(sorted(value)), "set") if is_text else None
    if not isinstance(value, Mapping):
        is_list = all(isinstance(item, str) for item in value) and len(set(value)) == count > 1
        return StoredNames(place, tuple(value), "list") if is_list and not hasattr(value, "_fields") else None
    for kind, pairs in (("by index", value.items()), ("by name", [(item, key) for key, item in value.items()])):
        indexed = {_index(index): name for index, name in pairs if isinstance(name, str)}
        if indexed.keys() == set(range(count)):
            return StoredNames(place, tuple(indexed[index] for index in range(count)), kind)
    return None


def names_parts_of(model: nn.Module, names: StoredNames) -> bool:
    """Return whether a list or set has names of the model's own modules, module classes or tensors."""
    if names.kind not in ("list", "set"):
        return False
    named = named_modules(model, include_aliases=True)
    parts = {type(module).__name__ for _, module in named} | {path for path, _ in named}
    parts |= {path.rpartition(".")[2] for path in parts} | dict(parameters_of(named)).keys()
    return parts.issuperset(names.names)


def _index(value: Any) -> int | None:
    return int(value) if isinstance(value, str) and value.isdecimal() else as_count(value)


def new_names(count: int, given: Sequence[str] | None, old: Sequence[str], classes: Mapping[int, int]) -> list[str]:
    """Return the given names, or those that kept classes had, and `LABEL_<index>` for new classes."""
    if given is not None:
        return list(given)
    kept = {} if all(map(_GENERATED.fullmatch, old)) else {new: old[index] for new, index in classes.items()}
    names: list[str] = []
    for index in range(count):
        name = kept.get(index, f"LABEL_{index}")
        names.append(name if name not in names else f"LABEL_{index}")
    return names


class ClassNames:
    """The names of classes that a model stores."""

    def __init__(self, stored: Sequence[StoredNames]) -> None:
        maps = [set(item.names) for item in stored if item.kind == "by index"]
        self._certain = [item for item in stored if item.kind == "by index" or set(item.names) in maps]
        self._doubtful = [item for item in stored if item not in self._certain]

    def explain(self, holders: Collection[int]) -> None:
        """Forget doubtful names in objects that are known to be right, given by their ids."""
        self._doubtful = [item for item in self._doubtful if id(item.place.holder) not in holders]

    def indices(self, count: int, head: str) -> dict[str, int]:
        """Return the index of each class name of the head at this path, empty if it is unknown which names are those.

        Names in a module that contains only this head come first. `count` is its old class count.
        """
        doubtful = [item for item in self._doubtful if len(item.names) == count]
        certain = [item for item in self._certain if item.kind != "set" and len(item.names) == count]
        known = certain or (doubtful if len(doubtful) == 1 and doubtful[0].kind != "set" else [])
        near = [item for item in known if item.place.path and f"{head}.".startswith(f"{item.place.path}.")]
        return {name: index for index, name in enumerate((near or known)[0].names)} if known else {}

    def update(self, swap_of: Callable[[str, int], HeadSwap], changes: Transaction) -> None:
        """Store the names of the new classes: the given ones, or those of kept classes.

        Args:
            swap_of: returns the swap of the head whose old classes a collection names, by the path of the module that
                holds it, and its length.
            changes: records every change.
        """
        for item in self._certain:
            ordered = (
                item
                if item.kind != "set"
                else next(
                    other for other in self._certain if other.kind != "set" and set(other.names) == set(item.names)
                )
            )
            item.place.put(item.renamed(_new_names(swap_of(*_key(item)), ordered.names)), changes)

    def update_doubtful(
        self, swap_of: Callable[[str, int], HeadSwap], changes: Transaction, still_runs: Callable[[], bool]
    ) -> list[str]:
        """Update a collection that may have the names of classes, if the user gave names and there is only one.

        `still_runs` verifies the model again. The other arguments are those of `update`.

        Returns:
            Notes for the user.
        """
        left = []
        for item in self._doubtful:
            swap = swap_of(*_key(item))
            sizes = [len(other.names) for other in (*self._certain, *self._doubtful)]
            savepoint = changes.savepoint()
            if swap.options.class_names is not None and sizes.count(len(item.names)) == 1:
                item.place.put(item.renamed(_new_names(swap, item.names)), changes)
                if still_runs():
                    continue
            changes.undo_since(savepoint)
            left.append(item)
        if left:
            labels = ", ".join(item.place.label for item in left[:_MAX_NAMED])
            return [f"{labels}: one name for each old class, not changed. Set new names if it has the names of classes"]
        return []

    def without_effect(self, swaps: Sequence[HeadSwap]) -> list[str]:
        """Return a note for each list of new names for which the model stores no old ones."""
        stored = {len(item.names) for item in (*self._certain, *self._doubtful)}
        given = {id(swap.options): swap.item.name for swap in swaps if swap.options.class_names is not None}
        used = {id(swap.options) for swap in swaps if swap.old_count in stored}
        several = len({id(swap.options) for swap in swaps}) > 1
        return [
            f"class_names has no effect{f' on {name}' if several else ''}: the model stores no names of classes"
            for key, name in given.items()
            if key not in used
        ]


def _key(item: StoredNames) -> tuple[str, int]:
    return item.place.path, len(item.names)


def _new_names(swap: HeadSwap, old: Sequence[str]) -> list[str]:
    return new_names(swap.new_count, swap.options.class_names, old, swap.classes)


def empty_mappings(model: nn.Module) -> list[StoredNames]:
    """Return the mappings of class names that a model without a head stores."""
    owners = (model.__dict__, getattr(config_of(model), "__dict__", {}))
    kinds = {"id2label": "by index", "label2id": "by name"}
    return [
        StoredNames(Place(name, name, owner, name, (), model), (), kind)
        for owner in owners
        for name, kind in kinds.items()
        if owner.get(name) == {}
    ]
