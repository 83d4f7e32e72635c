"""Find the numbers that a model stores around its head: in attributes, and in the containers and objects they hold."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import numbers
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from pytest_headswap._numbers import as_count
from pytest_headswap.engine.abstract.stand_ins import REGISTRIES
from pytest_headswap.engine.swapping.class_metadata import like_type_of
from pytest_headswap.engine.swapping.transaction import Transaction

_MAX_DEPTH = 6
_MAX_ITEMS = 256
_MAX_VISITED = 2000
_ATOMS = (bytes, bool, complex, torch.dtype, torch.device, nn.Module, type(None), type)
_WITHOUT_NUMBERS = {bool, type(None), property, types.FunctionType, staticmethod, classmethod}  # the common ones
_CONTAINERS = (tuple, list, dict, set, frozenset, types.MappingProxyType)
_MAX_TEXT = 10_000  # characters


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """A place where a module, or an object or container that it holds, stores a value.

    Attributes:
        label: an expression for the user, such as `fc.shape[1]` or `config['classes']`.
        name: the last attribute or key on the way to it.
        container: the dictionary, list or object with slots that holds it, or that holds the immutable container with
            it.
        key: its key there.
        route: its indices within nested containers that are copied, not changed.
        holder: the object that the attribute of the module refers to; the module itself for plain values.
        default: the value of the class, which an attribute of the instance will hide.
        path: path of the module.
    """

    label: str
    name: str
    container: Any
    key: Any
    route: tuple[Any, ...]
    holder: Any
    default: Any = None
    path: str = ""

    def get(self) -> Any:
        """Return the value that is there now."""
        value = self._outermost()
        for index in self.route:
            value = value[index]
        return value

    def put(self, value: Any, changes: Transaction) -> None:
        """Store another value there."""
        changes.set(self.container, self.key, _replaced(self._outermost(), self.route, value))

    def _outermost(self) -> Any:
        is_hidden = isinstance(self.container, Mapping) and self.key not in self.container
        return self.default if is_hidden else self.container[self.key]

    @property
    def is_attribute(self) -> bool:
        """Return whether it is a plain attribute of a module, not an item of a container or object."""
        return not self.route and isinstance(self.holder, nn.Module)


@dataclasses.dataclass(frozen=True, eq=False)
class StoredNumber(Place):
    """A number that a module, or an object or container that it holds, stores. `new` is what it may become."""

    value: int = 0
    new: int = 0

    def current(self) -> int | None:
        """Return the number that is there now."""
        return whole_number(self.get())

    @property
    def is_unchanged(self) -> bool:
        """Return whether the number is still the old one."""
        return self.current() == self.value

    @property
    def is_float(self) -> bool:
        """Return whether the number has a type for fractions: it may count nothing."""
        return as_count(self.get()) is None

    def set(self, number: int, changes: Transaction) -> None:
        """Store another number in its place, in the type of the old one."""
        self.put(like_type_of(self.get(), number), changes)


class _Slots:
    """The attributes of an object with `__slots__`, as the items of a container."""

    def __init__(self, item: Any) -> None:
        self._item = item

    def __getitem__(self, name: str) -> Any:
        return object.__getattribute__(self._item, name)

    def __setitem__(self, name: str, value: Any) -> None:
        object.__setattr__(self._item, name, value)


def _slots_of(item: Any) -> list[str]:
    if type(item).__module__ == "builtins":
        return []
    kinds = type(item).__mro__
    names = [name for kind in kinds for name, value in vars(kind).items() if inspect.ismemberdescriptor(value)]
    return [name for name in names if name != "__dict__" and hasattr(item, name)]


def whole_number(value: Any) -> int | None:
    """Return the value of an integer, or of a float without a fraction; None for anything else."""
    count = as_count(value)
    if count is None and isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return int(float(value)) if float(value).is_integer() else None
    return count


def _replaced(value: Any, route: tuple[Any, ...], new: Any) -> Any:
    if not route:
        return new
    items = dict(value) if isinstance(value, Mapping) else list(value)
    items[route[0]] = _replaced(items[route[0]], route[1:], new)
    if type(value) in (dict, list):
        return items
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def is_torch(item: nn.Module | type) -> bool:
    """Return whether a class, or that of a module, is part of torch."""
    kind = item if isinstance(item, type) else type(item)
    return kind.__module__.partition(".")[0] == "torch"


def places_of(module: nn.Module, path: str, seen: set[int] | None = None) -> Iterator[tuple[Place, Any]]:
    """Yield the numbers, texts and containers of a module, in its instance and in classes that are not torch's.

    `seen` are the ids of containers and objects to leave out; those that are visited are added.
    """
    prefix = f"{path}." if path else ""
    seen = set() if seen is None else seen
    for key, value in list(module.__dict__.items()):
        if type(value) not in _WITHOUT_NUMBERS and key not in REGISTRIES and not isinstance(value, _ATOMS):
            yield from _walk(value, Place(f"{prefix}{key}", key, module.__dict__, key, (), module, None, path), 0, seen)
    for kind in type(module).__mro__:
        if not is_torch(kind) and kind is not object:
            for key, value in list(vars(kind).items()):
                if type(value) in _WITHOUT_NUMBERS or key.startswith("__") or key in module.__dict__:
                    continue
                if not (isinstance(value, _ATOMS) or callable(value)):
                    place = Place(f"{prefix}{key}", key, module.__dict__, key, (), module, value, path)
                    yield from _walk(value, place, 0, seen, shared=True)


def numbers_of(module: nn.Module, path: str) -> Iterator[StoredNumber]:
    """Yield the numbers that a module stores."""
    for place, value in places_of(module, path):
        number = whole_number(value)
        if number is not None:
            yield StoredNumber(**vars(place), value=number)


def _walk(value: Any, place: Place, depth: int, seen: set[int], *, shared: bool = False) -> Iterator[tuple[Place, Any]]:
    """Yield a value and what it contains. A text counts if it has a digit.

    `shared` values belong to a class, so copies are changed in their place. `seen` are the containers and objects that
    were visited.
    """
    if isinstance(value, str):
        if len(value) <= _MAX_TEXT and any(map(str.isdigit, value)):
            yield place, value
    elif isinstance(value, (numbers.Number, torch.Tensor)) or hasattr(type(value), "__array__"):
        yield place, value
    elif id(value) not in seen and len(seen) < _MAX_VISITED and not _is_code(value):
        if not isinstance(value, tuple):  # equal tuples may be one object
            seen.add(id(value))
        if isinstance(value, _CONTAINERS):
            yield place, value
        for end, name, container, key, item in _items(value, place.name, shared):
            if isinstance(item, _ATOMS) or depth == _MAX_DEPTH:
                continue
            holder = value if depth == 0 else place.holder
            route = (*place.route, key) if container is None else ()
            own = (place.container, place.key) if container is None else (container, key)
            part = Place(place.label + end, name, *own, route, holder, place.default, place.path)
            yield from _walk(item, part, depth + 1, seen, shared=shared)


def _is_code(value: Any) -> bool:
    return inspect.isroutine(value) or inspect.ismodule(value) or isinstance(value, property)


def _items(value: Any, name: str, shared: bool) -> Iterator[tuple[str, str, Any, Any, Any]]:
    """Yield the label, name, container, key and value of each item. A container of None cannot be changed in place."""
    if isinstance(value, (tuple, list)):
        fields = getattr(value, "_fields", None) if isinstance(value, tuple) else None
        for index, item in enumerate(value[:_MAX_ITEMS]):
            end, own = (f".{fields[index]}", fields[index]) if fields else (f"[{index}]", name)
            yield end, own, None if shared or isinstance(value, tuple) else value, index, item
    elif isinstance(value, dict):
        for key in list(dict.keys(value))[:_MAX_ITEMS]:
            item = dict.__getitem__(value, key)  # A subclass may build a new value on each access.
            yield f"[{key!r}]", key if isinstance(key, str) else name, None if shared else value, key, item
    elif isinstance(value, types.MappingProxyType):
        for key in list(value)[:_MAX_ITEMS]:
            yield f"[{key!r}]", key if isinstance(key, str) else name, None, key, value[key]
    elif isinstance(value, functools.partial):
        for key, item in value.keywords.items():
            yield f".keywords[{key!r}]", key, value.keywords, key, item
    elif not shared:
        attributes: Any = None
        with suppress(Exception):  # an object of the user may raise anything
            attributes = vars(value)
        for key in list(attributes)[:_MAX_ITEMS] if isinstance(attributes, dict) else ():
            yield f".{key}", key, attributes, key, attributes[key]
        slots = _Slots(value)
        for key in _slots_of(value)[:_MAX_ITEMS]:
            yield f".{key}", key, slots, key, slots[key]
