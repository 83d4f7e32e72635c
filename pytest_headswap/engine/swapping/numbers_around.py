"""Find the numbers and collections around a head that may have to follow its class count."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pytest_headswap._numbers import as_count
from pytest_headswap.engine.detection.describe import DetectedHead
from pytest_headswap.engine.pytorch.modules import named_modules, owner_path
from pytest_headswap.engine.swapping.class_metadata import CLASS_COUNT_NAMES, config_of
from pytest_headswap.engine.swapping.class_names import ClassNames, StoredNames, names_parts_of, read_names
from pytest_headswap.engine.swapping.options import HeadSwap
from pytest_headswap.engine.swapping.stored_numbers import (
    Place,
    StoredNumber,
    is_torch,
    numbers_of,
    places_of,
    whole_number,
)
from pytest_headswap.engine.swapping.transaction import Transaction

_KEY = r"[A-Za-z_][\w.]*(?:\s*=\s*|[\"']?:\s+|[\"']:\s*)[\"']?"
"""A name and the sign behind it, as in `classes=1000`, `classes: 1000` or `"classes": 1000`."""
_LISTS = (list, tuple, set, frozenset)


class NumbersAround:
    """The stored numbers that equal an old width of a head, by the place where they are stored.

    Attributes:
        swaps: the heads that are swapped. Their classes are mapped once the names of the old ones are known.
        widths: what each old width or class count becomes; several numbers, if heads with this count will differ.
        near: on the layers that own class-sized tensors, and then on the modules that contain those.
        collections: containers, arrays and unregistered tensors there with one entry for each old class.
        texts: texts there that are an old class count, or that state one, such as `num_classes=1000`.
        shared: paths of the modules with heads that have one class count, and will not have one after the swap.
    """

    def __init__(self, model: nn.Module, swaps: Sequence[HeadSwap], others: Iterable[DetectedHead] = ()) -> None:
        """Record the numbers. Call this before the swap. `others` are the heads that are not swapped."""
        self._model = model
        self.swaps = swaps
        widths: dict[int, dict[int, None]] = {}
        counts: dict[int, dict[int, None]] = {}
        self._new_widths: dict[str, int] = {}
        for swap in swaps:
            counts.setdefault(swap.old_count, {})[swap.new_count] = None
            for spec in swap.item.tensors:
                width = spec.outer * swap.new_count * spec.inner
                widths.setdefault(spec.outer * swap.old_count * spec.inner, {})[width] = None
                self._new_widths.update(dict.fromkeys(spec.names, width))
        self._counts = {old: tuple(new) for old, new in counts.items()}
        self._certain = {old: new for old, (new, *more) in self._counts.items() if not more}
        self._ambiguous = self._counts.keys() - self._certain.keys()
        self.widths = {old: tuple(new) for old, new in (widths | counts).items() if tuple(new) != (old,)}
        self.layers = list(dict.fromkeys(map(owner_path, self._new_widths)))
        self.containers: dict[str, None] = {}
        for path in self.layers:
            while path:
                path = path.rpartition(".")[0]
                self.containers[path] = None
        other_names = [item.name for item in others if item.head.num_classes in self._counts]
        self.shared = frozenset(
            path
            for path in self.containers
            if any(_contains(path, name) for name in other_names)
            or any(len(self._new_values(path, old)) > 1 for old in self._counts)
        )
        found: dict[tuple[int, Any, tuple[Any, ...]], tuple[Place, Any]] = {}
        for path in dict.fromkeys((*self.layers, *self.containers)):
            for place, value in places_of(model.get_submodule(path), path):  # an outer module holds it as well
                found[id(place.container), place.key, place.route] = place, value
        self.near: tuple[StoredNumber, ...] = ()
        self.collections: list[tuple[Place, Any]] = []
        self.texts: list[tuple[Place, str]] = []
        stated = "|".join(str(old) for old in self._counts if old > 1)
        self._in_text = re.compile(rf"^\s*(?:{stated})\s*$|{_KEY}(?:{stated})(?![\w.%/])") if stated else None
        for place, value in found.values():
            self._add(place, value)
        places = (*self.near, *(place for place, _ in (*self.collections, *self.texts)))
        self._modules = {place.path: model.get_submodule(place.path) for place in places}
        self._stated = [item for item in self._properties() if self._stated_count(*item) in self._counts]

    def _add(self, place: Place, value: Any) -> None:
        if isinstance(value, str):
            if self._in_text is not None and self._in_text.search(value):
                self.texts.append((place, value))
            return
        count = whole_number(value)
        if count is not None and count in self.widths:
            news = self._new_values(place.path, count)
            self.near += tuple(StoredNumber(**vars(place), value=count, new=new) for new in news)
        elif count is None:
            shape = (len(value),) if isinstance(value, (*_LISTS, Mapping)) else getattr(value, "shape", ())
            if not {old for old in self._counts if old}.isdisjoint(shape):
                self.collections.append((place, value))

    def _new_values(self, path: str, number: int) -> tuple[int, ...]:
        """Return what a number becomes in the module at `path`: one value, unless heads with this count will differ."""
        new = self.widths.get(number, ())
        inside = [swap for swap in self.swaps if _contains(path, swap.item.name)] if len(new) > 1 else ()
        return tuple(dict.fromkeys(swap.new_count for swap in inside if swap.old_count == number)) or new

    def counts_at(self, path: str) -> dict[int, int]:
        """Return the new class count for each old one in the module at `path`, where that is certain."""
        if not self._ambiguous:
            return self._certain
        found = {old: self._new_values(path, old) for old in self._ambiguous}
        return self._certain | {old: new for old, (new, *more) in found.items() if not more}

    def swap_of(self, path: str, count: int) -> HeadSwap:
        """Return the swap whose old classes a collection in the module at `path` names. `count` is its length."""
        swaps = [swap for swap in self.swaps if swap.old_count == count]
        swaps = [swap for swap in swaps if _contains(path, swap.item.name)] or swaps
        return next((swap for swap in swaps if swap.options.class_names is not None), swaps[0])

    def _properties(self) -> Iterator[tuple[str, str]]:
        for path in (*self.layers, *self.containers):
            kind = type(self._model.get_submodule(path))
            yield from ((path, name) for name in CLASS_COUNT_NAMES if isinstance(getattr(kind, name, None), property))

    def _stated_count(self, path: str, name: str) -> int | None:
        try:
            return as_count(getattr(self._model.get_submodule(path), name))
        except Exception:  # noqa: BLE001 - a property may raise anything
            return None

    def stale_properties(self) -> list[str]:
        """Return the properties that stated the old class count and still do."""
        found = [(path, name) for path, name in self._stated if self._stated_count(path, name) in self._counts]
        return [f"{path}.{name}".lstrip(".") for path, name in found]

    def class_names(self) -> ClassNames:
        """Return the collections that have one name for each old class, and copies of them in other modules."""
        pairs = itertools.product(self.collections, self._counts)
        found = (read_names(place, value, old) for (place, value), old in pairs if place.path not in self.shared)
        near = [names for names in found if names is not None and not names_parts_of(self._model, names)]
        return ClassNames([*near, *self._copies({(item.kind, item.names) for item in near if item.kind != "list"})])

    def _copies(self, known: Collection[tuple[str, tuple[str, ...]]]) -> Iterator[StoredNames]:
        """Yield the same mappings in other modules, such as an encoder with its own copy of the configuration."""
        seen: set[int] = set()
        for path, module in self._other_modules() if known else ():
            for owner in (module.__dict__, getattr(config_of(module), "__dict__", {})):
                if id(owner) in seen:
                    continue
                seen.add(id(owner))
                for key, value in owner.items():
                    if isinstance(value, Mapping) and len(value) in self._counts:
                        place = Place(f"{path}.{key}", key, owner, key, (), module, None, path)
                        names = read_names(place, value, len(value))
                        if names is not None and (names.kind, names.names) in known:
                            yield names

    def values_by_class(self) -> list[str]:
        """Return the labels of lists and arrays of numbers with one entry for each old class, such as weights."""
        return [
            place.label
            for place, value in self.collections
            if not isinstance(value, torch.Tensor)
            if not isinstance(value, Mapping)
            if not isinstance(value, _LISTS) or all(map(_is_number, value))
            if value is place.get()
        ]

    def tensors_by_class(self) -> dict[str, torch.Tensor]:
        """Return the unregistered tensors that have a dimension of an old class count, by their labels."""
        return {
            place.label: value
            for place, value in self.collections
            if isinstance(value, torch.Tensor) and value is place.get()
        }

    def _forget_changed(self) -> None:
        """Forget the numbers near the head that the swap changed, or whose module it replaced."""
        same = {path for path, module in self._modules.items() if _submodule(self._model, path) is module}
        self.near = tuple(n for n in self.near if n.path in same and n.current() == n.value)
        self.collections = [(p, v) for p, v in self.collections if p.path in same and p.get() is v]
        self.texts = [(p, v) for p, v in self.texts if p.path in same and p.get() is v]

    def _numbers(self, path: str, module: nn.Module) -> Iterator[StoredNumber]:
        found = (number for number in numbers_of(module, path) if number.value in self.widths)
        return (replace(number, new=new) for number in found for new in self._new_values(path, number.value))

    def named_like_counts(self) -> list[StoredNumber]:
        """Return the numbers near the head whose name says that they count classes."""
        return [n for n in self.near if self._is_count(n) and n.path not in self.shared]

    def follow_named(self, changes: Transaction) -> None:
        """Forget what the swap changed, and update the numbers whose name says that they count classes."""
        self._forget_changed()
        for number in self.named_like_counts():
            number.set(number.new, changes)
        for place, value in self.texts:
            if place.name in CLASS_COUNT_NAMES and place.path not in self.shared and value.strip().isdecimal():
                place.put(value.replace(value.strip(), str(self.counts_at(place.path)[int(value)])), changes)
        self._forget_changed()

    def explain(self, holders: Collection[int]) -> None:
        """Forget what changed, and what is in objects that are known to be right, given by their ids."""
        self._forget_changed()
        known = {(number.name, number.value) for number in self.near if id(number.holder) in holders}
        self.near = tuple(number for number in self.near if (number.name, number.value) not in known)
        self.collections = [(place, value) for place, value in self.collections if id(place.holder) not in holders]
        self.texts = [(place, value) for place, value in self.texts if id(place.holder) not in holders]

    def shared_labels(self) -> list[str]:
        """Return the unchanged counts and mappings of names that may be those of either of two heads."""
        counts = [n for n in self.near if self._is_count(n) and n.path in self.shared and n.is_unchanged]
        names = [
            place.label
            for (place, value), old in itertools.product(self.collections, self.widths)
            if place.path in self.shared and isinstance(value, Mapping) and read_names(place, value, old)
        ]
        return list(dict.fromkeys([*(f"{number.label} = {number.value}" for number in counts), *names]))

    @staticmethod
    def _is_count(number: StoredNumber) -> bool:
        return number.name in CLASS_COUNT_NAMES

    def of_layers(self) -> list[StoredNumber]:
        """Return the attributes of single layers of the head that no dimension of their own tensors equals."""
        stored = [n for n in self.near if n.path in self.layers and n.is_attribute and n.value > 1]
        return [number for number in stored if not self._has_dimension(number)]

    def on_modules_without_parameters(self) -> list[StoredNumber]:
        """Return the numbers on other modules that have no parameters, such as a reshape behind the head."""
        return [
            number
            for path, module in self._other_modules()
            if not module._parameters and (not module._modules or next(module.parameters(), None) is None)
            for number in self._numbers(path, module)
        ]

    def on_other_modules(self) -> Iterator[StoredNumber]:
        """Yield the numbers on modules that do not contain the head and are not torch's, such as a loss."""
        for path, module in self._other_modules():
            if not is_torch(module):
                yield from (number for number in self._numbers(path, module) if not number.is_float)

    def _other_modules(self) -> Iterator[tuple[str, nn.Module]]:
        around = {*self.layers, *self.containers}
        return ((path, module) for path, module in named_modules(self._model) if path not in around)

    def unexplained(self) -> list[StoredNumber]:
        """Return the numbers near the head that nothing else in the model explains.

        Explained are attributes of torch's own layers, other dimensions of tensors in the same module, and numbers
        that the backbone stores under the same name or in the same object.
        """
        stored = [
            number
            for number in self.near
            if not number.is_float and not self._has_dimension(number)
            if not is_torch(self._model.get_submodule(number.path))
        ]
        if not stored:
            return []
        named: set[tuple[str, int]] = set()
        objects: set[int] = set()
        for path, module in self._other_modules():
            for number in self._numbers(path, module):
                named.add((number.name, number.value))
                objects.add(id(number.holder))
        return [n for n in stored if (n.name, n.value) not in named and id(n.holder) not in objects]

    def _has_dimension(self, number: StoredNumber) -> bool:
        """Return whether a tensor of the number's module has it as a dimension, other than the width of a new head."""
        module = self._model.get_submodule(number.path)
        inside = module.named_parameters(number.path, recurse=number.path not in self.layers)
        return any(number.value in value.shape and number.value != self._new_widths.get(name) for name, value in inside)


def _contains(path: str, name: str) -> bool:
    """Return whether the module at `path` is, or contains, the module or tensor with this name."""
    return not path or name == path or name.startswith(f"{path}.")


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _is_number(value: Any) -> bool:
    return whole_number(value) is not None or isinstance(value, float)
