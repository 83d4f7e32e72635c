"""Undo what a forward pass writes outside the attributes of the model's modules.

A model may cache a tensor in an object that a module holds, in a class attribute, in a global variable, in a closure
or in a `functools.lru_cache`. A stand-in that stays there breaks the next real forward pass, also of other models.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.held_values import (
    CONTAINERS,
    PLAIN_CONTAINERS,
    copy_items,
    dict_of,
    restore_cell,
    restore_class,
    restore_container,
    restore_slot,
    restore_variable,
    slot_content,
    slots_of,
)
from pytest_headswap.engine.abstract.reachable_code import (
    MISSING,
    PLAIN,
    ReachableCode,
    cell_content,
    is_code,
    is_foreign,
    reachable_code,
)

_MAX_ITEMS = 4096
"""Largest container that is searched. Larger ones are registries of a library."""
_MAX_COPIED = 2**26
"""Elements of all tensors outside of modules that are copied for one run."""
_HOLDERS = frozenset(("argparse", "collections", "queue", "types", "weakref", "_thread"))
"""Modules of the standard library whose objects hold what users put there, such as a `WeakKeyDictionary`."""


class Surroundings:
    """The objects, classes, variables, closures and caches that the forward pass of a model can reach, and their state.

    Objects, containers and closures are restored completely. A class attribute or global variable is restored if it
    now holds a tensor: others may hold what a library loads once, such as a compiled kernel.
    """

    def __init__(self, module_list: Sequence[nn.Module], values: Iterable[Any]) -> None:
        """Record the state. `values` are attributes of the modules other than tensors, and their hooks."""
        self._modules = {id(module) for module in module_list}
        self._seen: set[int] = set()
        self._objects: list[tuple[Any, dict[str, Any]]] = []
        self._slots: list[tuple[Any, types.MemberDescriptorType, Any]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._cells: list[tuple[types.CellType, Any]] = []
        self._variables: list[tuple[dict[str, Any], str, Any]] = []
        self._classes: list[tuple[type, dict[str, Any]]] = []
        self._caches: list[tuple[Any, int]] = []
        self._tensors: list[torch.Tensor] = []
        self._copies: list[tuple[torch.Tensor, int, torch.Tensor]] = []
        covered: set[Any] = set()
        for roots in ({type(module) for module in module_list}, set(self._visit(values))):
            code = roots - covered
            while code:
                covered |= code
                code = set(self._add(reachable_code(frozenset(code)))) - covered

    def substitute(self, stand_in: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        """Replace each tensor for which `stand_in` returns another one. `restore` puts the tensors back.

        Copy the others, up to `_MAX_COPIED` elements, so that `restore` can undo what forward writes to them.
        """
        for container, key, value in self.references(stand_in):
            container[key] = value
        left = _MAX_COPIED
        for tensor in self._tensors:
            if stand_in(tensor) is None and tensor.numel() <= left and not (tensor.is_meta or tensor.is_inference()):
                self._copies.append((tensor, tensor._version, tensor.detach().clone()))
                left -= tensor.numel()

    def references(self, replacement: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[tuple[Any, Any, Any]]:
        """Yield each reference to a tensor for which `replacement` returns another one.

        A reference is a dictionary, list or object with `__slots__`, the key there, and the value to put there: the
        other tensor, or a tuple with it.
        """
        for item, state in self._objects:
            for key, value in state.items():
                if (made := with_replacement(value, replacement)) is not None:
                    yield item.__dict__, key, made
        for container, copied in self._containers:
            if not isinstance(container, set):
                items: Iterable[tuple[Any, Any]] = copied.items() if isinstance(copied, dict) else enumerate(copied)
                for key, value in items:
                    if (made := with_replacement(value, replacement)) is not None:
                        yield container, key, made
        for item, descriptor, value in self._slots:
            if (made := with_replacement(value, replacement)) is not None:
                yield _Slots(item), descriptor.__name__, made

    def restore(self) -> None:
        """Undo every write since this object was made."""
        for tensor, version, copied in self._copies:
            if tensor._version != version:
                tensor.data.copy_(copied)
        for item, state in self._objects:
            restore_container(item.__dict__, state)
        for container, copied in self._containers:
            restore_container(container, copied)
        for item, descriptor, value in self._slots:
            restore_slot(item, descriptor, value)
        for cell, value in self._cells:
            restore_cell(cell, value)
        for namespace, name, value in self._variables:
            restore_variable(namespace, name, value)
        for kind, attributes in self._classes:
            restore_class(kind, attributes)
        for function, misses in self._caches:
            if function.cache_info().misses != misses:
                function.cache_clear()

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """Yield what each object, container, variable and cache holds now, and what it held when this was made."""
        yield from ((item.__dict__, state) for item, state in self._objects)
        yield from ((copy_items(container), copied) for container, copied in self._containers)
        yield from ((slot_content(item, descriptor), value) for item, descriptor, value in self._slots)
        yield from ((cell_content(cell), value) for cell, value in self._cells)
        yield from ((namespace.get(name, MISSING), value) for namespace, name, value in self._variables)
        yield from ((dict(vars(kind)), attributes) for kind, attributes in self._classes)
        yield from ((function.cache_info().misses, misses) for function, misses in self._caches)

    def _add(self, reach: ReachableCode) -> Iterator[Any]:
        """Record the state of what code can reach. Yield the functions and classes found in it."""
        self._classes += [(kind, dict(vars(kind))) for kind in reach.classes]
        self._objects += [(function, vars(function).copy()) for function in reach.self_referential]
        self._caches += [(function, function.cache_info().misses) for function in reach.caches]
        variables = reach.variables.values()
        self._variables += [(namespace, name, namespace.get(name, MISSING)) for namespace, name in variables]
        self._cells += [(cell, cell_content(cell)) for cell in reach.cells]
        values = [vars(kind).get(name) for kind, name in reach.attributes]
        values += [namespace.get(name) for namespace, name in variables]
        values += map(cell_content, reach.cells)
        values += [item for function in reach.self_referential for item in vars(function).values()]
        yield from self._visit((*values, *reach.constants))

    def _visit(self, values: Iterable[Any]) -> Iterator[Any]:
        """Record the objects and containers that values lead to, except the model's modules.

        Yield the functions and classes.
        """
        stack = list(values)
        while stack:
            value = stack.pop()
            kind = type(value)
            if kind in PLAIN or id(value) in self._seen or id(value) in self._modules:
                continue
            if is_code(value):
                yield value
                if kind is types.MethodType:
                    stack.append(value.__self__)
                continue
            self._seen.add(id(value))
            if issubclass(kind, torch.Tensor):
                self._tensors.append(value)
            if issubclass(kind, CONTAINERS):
                if len(value) <= _MAX_ITEMS:
                    copied = copy_items(value)
                    self._containers.append((value, copied))
                    stack += copied.values() if isinstance(copied, dict) else copied
            elif issubclass(kind, tuple):
                stack += value
            if kind not in PLAIN_CONTAINERS and (
                not is_foreign(kind) or kind.__module__ in _HOLDERS or issubclass(kind, nn.Module)
            ):
                yield kind
                state = dict_of(value)
                if type(state) is dict:
                    self._objects.append((value, state.copy()))
                    stack += state.values()
                for descriptor in slots_of(kind):  # type: ignore[arg-type]
                    content = slot_content(value, descriptor)
                    self._slots.append((value, descriptor, content))
                    stack.append(content)


class _Slots:
    """The attributes that an object keeps in `__slots__`, by name."""

    def __init__(self, item: Any) -> None:
        self._item = item

    def __getitem__(self, name: str) -> Any:
        return getattr(self._item, name)

    def __setitem__(self, name: str, value: Any) -> None:
        object.__setattr__(self._item, name, value)


def with_replacement(value: Any, replacement: Callable[[torch.Tensor], torch.Tensor | None]) -> Any:
    """Return the other tensor for a tensor, or a tuple that contains others; None if nothing is replaced."""
    if isinstance(value, torch.Tensor):
        return replacement(value)
    if not isinstance(value, tuple) or not any(isinstance(item, (torch.Tensor, tuple)) for item in value):
        return None
    made = [with_replacement(item, replacement) for item in value]
    if all(item is None for item in made):
        return None
    items = [old if new is None else new for old, new in zip(value, made, strict=True)]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
