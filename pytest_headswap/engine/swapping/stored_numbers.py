"""Find the numbers that a model stores around its head: in attributes, and in the containers and objects they hold."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from pytest_headswap._numbers import as_count
from pytest_headswap.engine.abstract.stand_ins import REGISTRIES
from pytest_headswap.engine.detection.describe import DetectedHead
from pytest_headswap.engine.pytorch.modules import named_modules, owner_path
from pytest_headswap.engine.swapping.class_metadata import CLASS_COUNT_NAMES, like_type_of
from pytest_headswap.engine.swapping.transaction import Transaction

_MAX_DEPTH = 6
_MAX_ITEMS = 256
_ATOMS = (str, bytes, bool, float, complex, torch.Tensor, torch.dtype, torch.device, nn.Module, type(None), type)


@dataclasses.dataclass(frozen=True, eq=False)
class StoredNumber:
    """A number that a module, or an object or container that it holds, stores.

    Attributes:
        label: an expression for the user, such as `fc.shape[1]` or `config['classes']`.
        name: the last attribute or key on the way to it.
        value: the number.
        container: the dictionary or list that holds it, or holds the tuple with it.
        key: its key there.
        route: its indices within nested tuples.
        holder: the object that the attribute of the module refers to; the module itself for plain numbers.
        path: path of the module.
    """

    label: str
    name: str
    value: int
    container: Any
    key: Any
    route: tuple[int, ...]
    holder: Any
    path: str = ""

    def current(self) -> int | None:
        """Return the number that is there now."""
        is_hidden = isinstance(self.container, Mapping) and self.key not in self.container
        value: Any = self.value if is_hidden else self.container[self.key]
        for index in self.route:
            value = value[index]
        return as_count(value)

    @property
    def is_attribute(self) -> bool:
        """Return whether it is a plain attribute of a module, not an item of a container or object."""
        return not self.route and isinstance(self.holder, nn.Module)

    def set(self, number: int, changes: Transaction) -> None:
        """Store another number in its place, in the type of the old one."""
        is_hidden = isinstance(self.container, Mapping) and self.key not in self.container  # a class attribute
        current = self.value if is_hidden else self.container[self.key]
        changes.set(self.container, self.key, _replaced(current, self.route, number))


def _replaced(value: Any, route: tuple[int, ...], number: int) -> Any:
    if not route:
        return like_type_of(value, number)
    items = list(value)
    items[route[0]] = _replaced(items[route[0]], route[1:], number)
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def is_torch(item: nn.Module | type) -> bool:
    """Return whether a class, or that of a module, is part of torch."""
    kind = item if isinstance(item, type) else type(item)
    return kind.__module__.partition(".")[0] == "torch"


def numbers_of(module: nn.Module, path: str) -> Iterator[StoredNumber]:
    """Yield the numbers that a module stores, in its instance and in classes that are not torch's."""
    prefix = f"{path}." if path else ""
    for key, value in list(module.__dict__.items()):
        if key not in REGISTRIES and key != "training":
            for number in _walk(value, f"{prefix}{key}", key, module.__dict__, key, (), module, 0):
                yield dataclasses.replace(number, path=path)
    for kind in type(module).__mro__:
        if not is_torch(kind) and kind is not object:
            for key, value in vars(kind).items():
                count = None if key.startswith("__") or key in module.__dict__ else as_count(value)
                if count is not None:  # an attribute of the instance will hide it
                    yield StoredNumber(f"{prefix}{key}", key, count, module.__dict__, key, (), module, path)


def _walk(
    value: Any, label: str, name: str, container: Any, key: Any, route: tuple[int, ...], holder: Any, depth: int
) -> Iterator[StoredNumber]:
    if isinstance(value, _ATOMS):
        return
    count = as_count(value)
    if count is not None:
        yield StoredNumber(label, name, count, container, key, route, holder)
    elif depth < _MAX_DEPTH and not callable(value):
        inner = value if depth == 0 else holder
        if isinstance(value, tuple):
            fields = getattr(value, "_fields", None)
            for index, item in enumerate(value[:_MAX_ITEMS]):
                end, own = (f".{fields[index]}", fields[index]) if fields else (f"[{index}]", name)
                yield from _walk(item, label + end, own, container, key, (*route, index), holder, depth + 1)
        elif not route and isinstance(value, list):
            for index, item in enumerate(value[:_MAX_ITEMS]):
                yield from _walk(item, f"{label}[{index}]", name, value, index, (), inner, depth + 1)
        elif not route and isinstance(value, dict):
            for item_key in list(dict.keys(value))[:_MAX_ITEMS]:
                item = dict.__getitem__(value, item_key)  # A subclass may build a new value on each access.
                own = item_key if isinstance(item_key, str) else name
                yield from _walk(item, f"{label}[{item_key!r}]", own, value, item_key, (), inner, depth + 1)
        elif not route and not inspect.ismodule(value) and isinstance(getattr(value, "__dict__", None), dict):
            for own in list(vars(value))[:_MAX_ITEMS]:
                yield from _walk(vars(value)[own], f"{label}.{own}", own, vars(value), own, (), inner, depth + 1)


class NumbersAround:
    """The stored numbers that equal an old width of a head, by the place where they are stored.

    Attributes:
        near: on the layers that own class-sized tensors, and then on the modules that contain those.
    """

    def __init__(self, model: nn.Module, selected: Iterable[DetectedHead], num_classes: int) -> None:
        """Record the numbers. Call this before the swap."""
        self._model = model
        self.widths: dict[int, int] = {}
        names: list[str] = []
        for item in selected:
            for spec in item.tensors:
                self.widths[spec.outer * item.head.num_classes * spec.inner] = spec.outer * num_classes * spec.inner
                names += spec.names
        self.counts = {item.head.num_classes: num_classes for item in selected}
        self.widths = {old: new for old, new in (self.widths | self.counts).items() if old != new}
        self.layers = list(dict.fromkeys(owner_path(name) for name in names))
        self._containers: dict[str, None] = {}
        for path in self.layers:
            while path:
                path = path.rpartition(".")[0]
                self._containers[path] = None
        found = ((path, model.get_submodule(path)) for path in dict.fromkeys((*self.layers, *self._containers)))
        self.near = tuple(number for path, module in found for number in self._numbers(path, module))
        self._modules = {number.path: model.get_submodule(number.path) for number in self.near}

    def forget_changed(self) -> None:
        """Forget the numbers near the head that the swap changed, or whose module it replaced."""
        same = {path for path, module in self._modules.items() if _submodule(self._model, path) is module}
        self.near = tuple(n for n in self.near if n.path in same and n.current() == n.value)

    def _numbers(self, path: str, module: nn.Module) -> Iterator[StoredNumber]:
        return (number for number in numbers_of(module, path) if number.value in self.widths)

    def named_like_counts(self) -> list[StoredNumber]:
        """Return the numbers near the head whose name says that they count classes."""
        return [n for n in self.near if n.name in CLASS_COUNT_NAMES and n.value in self.counts]

    def of_layers(self) -> list[StoredNumber]:
        """Return the attributes of single layers of the head that no dimension of their own tensors equals."""
        numbers = [n for n in self.near if n.path in self.layers and n.is_attribute and n.value > 1]
        return [number for number in numbers if not self._has_dimension(number)]

    def on_modules_without_parameters(self) -> list[StoredNumber]:
        """Return the numbers on other modules that have no parameters, such as a reshape behind the head."""
        return [
            number
            for path, module in named_modules(self._model)
            if not module._parameters and path not in self.layers and path not in self._containers
            if not module._modules or next(module.parameters(), None) is None
            for number in self._numbers(path, module)
        ]

    def unexplained(self) -> list[StoredNumber]:
        """Return the numbers near the head that nothing else in the model explains.

        Explained are attributes of torch's own layers, other dimensions of tensors in the same module, and numbers
        that the backbone stores under the same name or in the same object.
        """
        numbers = [
            number
            for number in self.near
            if not self._has_dimension(number) and not is_torch(self._model.get_submodule(number.path))
        ]
        if not numbers:
            return []
        named: set[tuple[str, int]] = set()
        objects: set[int] = set()
        for path, module in named_modules(self._model):
            if path not in self.layers and path not in self._containers:
                for number in self._numbers(path, module):
                    named.add((number.name, number.value))
                    objects.add(id(number.holder))
        return [n for n in numbers if (n.name, n.value) not in named and id(n.holder) not in objects]

    def _has_dimension(self, number: StoredNumber) -> bool:
        module = self._model.get_submodule(number.path)
        inside = module.named_parameters() if number.path not in self.layers else module.named_parameters(recurse=False)
        return any(number.value in value.shape for _, value in inside)


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
