"""Find and replace tensors at any depth: in containers, dataclasses and other objects with attributes.

The originals stay unchanged: whatever leads to a replaced tensor is copied, and everything else is shared.
"""

from __future__ import annotations

import copy
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from enum import Enum
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.errors import HeadSwapError

_VALUES = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, Enum)
_CODE = (type, nn.Module, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType)
_CLOSED = (*_VALUES, *_CODE, weakref.ref)
"""Types that are not searched for tensors."""


def nested_tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors in `value`, depth first. An object that appears twice is searched once."""
    return list(_search(value, {}))


def map_nested_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return `value` with `change` applied to each tensor in it.

    Raises:
        HeadSwapError: `bad_inputs`, if an object that holds a tensor cannot be copied.
    """
    return _Copier(change).copy(value)


class _Copier:
    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._change = change
        self._copies: dict[int, tuple[Any, Any]] = {}  # originals and copies, so that shared objects stay shared

    def copy(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._change(value)
        if id(value) in self._copies:
            return self._copies[id(value)][1]
        if next(_search(value, {}), None) is None:
            return value
        if isinstance(value, tuple):
            items = [self.copy(item) for item in value]
            return value._make(items) if hasattr(value, "_make") else type(value)(items)
        copied = _shallow_copy(value)
        self._copies[id(value)] = value, copied  # before its children, which may refer to it
        for key, child in _children(value):
            new = self.copy(child)
            if new is child:
                continue
            if isinstance(value, (MutableMapping, list, deque)):
                copied[key] = new
            else:
                object.__setattr__(copied, key, new)  # also if the class is frozen
        return copied


def _search(value: Any, visited: dict[int, Any]) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif not isinstance(value, _CLOSED) and id(value) not in visited:
        visited[id(value)] = value  # ids stay unique while the objects live
        for _, child in _children(value):
            yield from _search(child, visited)


def _children(value: Any) -> list[tuple[Any, Any]]:
    """Return the items of a container by key or index, or the attributes of any other object by name."""
    if isinstance(value, MutableMapping):
        return list(value.items())
    if isinstance(value, (tuple, list, deque)):
        return list(enumerate(value))
    attributes: dict[str, Any] = {}
    with suppress(Exception):  # the class of an object without `__dict__` may raise anything
        attributes = value.__dict__
    return [*attributes.items(), *_slots(value)]


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    for kind in type(value).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, types.MemberDescriptorType):
                try:
                    yield name, member.__get__(value)
                except AttributeError:
                    continue  # the slot is empty


def _shallow_copy(value: Any) -> Any:
    try:
        return copy.copy(value)
    except Exception as error:
        raise HeadSwapError(
            "bad_inputs", f"example_inputs contains a {type(value).__name__} with a tensor, which cannot be copied"
        ) from error
