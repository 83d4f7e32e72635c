"""Read and restore what objects, containers, closures, variables and classes hold."""

from __future__ import annotations

import functools
import operator
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from typing import Any

import torch

from pytest_headswap.engine.abstract.reachable_code import MISSING, PLAIN, cell_content, is_code

CONTAINERS = (list, dict, set, deque)
PLAIN_CONTAINERS = frozenset((*CONTAINERS, OrderedDict, defaultdict))


@functools.cache
def slots_of(kind: type) -> tuple[types.MemberDescriptorType, ...]:
    """Return the attributes that a class keeps in `__slots__`."""
    values = (value for base in kind.__mro__ if "__slots__" in vars(base) for value in vars(base).values())
    return tuple(value for value in values if isinstance(value, types.MemberDescriptorType))


def slot_content(item: Any, descriptor: types.MemberDescriptorType) -> Any:
    try:
        return descriptor.__get__(item)
    except AttributeError:  # not assigned
        return MISSING


def restore_slot(item: Any, descriptor: types.MemberDescriptorType, value: Any) -> None:
    if slot_content(item, descriptor) is value:
        return
    if value is MISSING:
        descriptor.__delete__(item)
    else:
        descriptor.__set__(item, value)


def restore_cell(cell: types.CellType, value: Any) -> None:
    if cell_content(cell) is value:
        return
    if value is MISSING:
        del cell.cell_contents
    else:
        cell.cell_contents = value


def restore_variable(namespace: dict[str, Any], name: str, value: Any) -> None:
    current = namespace.get(name, MISSING)
    if current is value or not holds_tensor(current):
        return
    if value is MISSING:
        del namespace[name]
    else:
        namespace[name] = value


def restore_class(kind: type, attributes: dict[str, Any]) -> None:
    if len(vars(kind)) == len(attributes) and all(map(operator.is_, vars(kind).values(), attributes.values())):
        return
    for name, current in list(vars(kind).items()):
        value = attributes.get(name, MISSING)
        if current is value or not holds_tensor(current):
            continue
        if value is MISSING:
            delattr(kind, name)
        else:
            setattr(kind, name, value)


def copy_items(container: Any) -> Any:
    """Return the items of a container as a dict or list. A dict subclass may build a new value on each access."""
    if not isinstance(container, dict):
        return list(container)
    if type(container) in PLAIN_CONTAINERS:
        return dict(container)
    keys = OrderedDict.__iter__ if isinstance(container, OrderedDict) else dict.__iter__
    return {key: dict.__getitem__(container, key) for key in keys(container)}


def restore_container(container: Any, copied: Any) -> None:
    """Give a container its former items. `copied` is a dict of them, or a list."""
    if isinstance(container, dict):
        current = copy_items(container)
        if current.keys() != copied.keys() or not all(map(operator.is_, map(current.get, copied), copied.values())):
            container.clear()
            container.update(copied)
    elif len(container) != len(copied) or not all(map(operator.is_, container, copied)):
        container.clear()
        if isinstance(container, set):
            container.update(copied)
        else:
            container.extend(copied)


def holds_tensor(value: Any, depth: int = 3) -> bool:
    """Return whether a value is a tensor, or a container or object with one."""
    if isinstance(value, torch.Tensor):
        return True
    if depth == 0 or type(value) in PLAIN or is_code(value) or isinstance(value, types.ModuleType):
        return False
    items: Iterable[Any]
    if isinstance(value, dict):
        items = value.values()
    elif isinstance(value, (list, tuple, set, deque)):
        items = value
    else:
        items = (dict_of(value) or {}).values()
    return any(holds_tensor(item, depth - 1) for item in items)


def dict_of(value: Any) -> Any:
    """Return the `__dict__` of an object, or None. The class of an object without one may raise anything."""
    try:
        return getattr(value, "__dict__", None)
    except Exception:  # noqa: BLE001
        return None
