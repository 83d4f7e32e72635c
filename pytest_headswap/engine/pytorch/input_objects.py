"""Replace the tensors in nested arguments: in containers, dataclasses and any other objects with attributes.

The originals stay unchanged: whatever holds a replaced tensor is copied, and everything else is shared.
"""

from __future__ import annotations

import copy
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from enum import Enum
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.errors import HeadSwapError

_ATOMS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, Enum)
_CODE = (type, nn.Module, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType)
_CLOSED = (*_ATOMS, *_CODE, weakref.ref)


def map_nested_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return `value` with `change` applied to each tensor in it, at any depth.

    Raises:
        HeadSwapError: `bad_inputs`, if an object that holds a tensor cannot be copied.
    """
    return _TensorMap(change).apply(value)


class _TensorMap:
    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._change = change
        self._results: dict[int, Any] = {}  # by id of the original: shared objects stay shared, and cycles end

    def apply(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._change(value)
        if isinstance(value, _CLOSED):
            return value
        if id(value) not in self._results:
            self._results[id(value)] = value  # what an object in a cycle sees while it is copied
            self._results[id(value)] = self._copy(value)
        return self._results[id(value)]

    def _copy(self, value: Any) -> Any:
        if isinstance(value, tuple):
            items = [self.apply(item) for item in value]
            if all(new is old for new, old in zip(items, value, strict=True)):
                return value
            return value._make(items) if hasattr(value, "_make") else type(value)(items)
        if isinstance(value, MutableMapping):
            changes = {key: new for key, old in value.items() if (new := self.apply(old)) is not old}
            return _with_items(value, changes)
        if isinstance(value, (list, deque)):
            changes = {index: new for index, old in enumerate(value) if (new := self.apply(old)) is not old}
            return _with_items(value, changes)
        attributes = {name: new for name, old in _attributes(value) if (new := self.apply(old)) is not old}
        if not attributes:
            return value
        copied = _shallow_copy(value)
        for name, new in attributes.items():
            object.__setattr__(copied, name, new)  # also where the class is frozen
        return copied


def _with_items(value: Any, changes: dict[Any, Any]) -> Any:
    if not changes:
        return value
    copied = _shallow_copy(value)
    for key, new in changes.items():
        copied[key] = new
    return copied


def _shallow_copy(value: Any) -> Any:
    try:
        return copy.copy(value)
    except Exception as error:
        raise HeadSwapError(
            "bad_inputs", f"example_inputs contains a {type(value).__name__} with a tensor, which cannot be copied"
        ) from error


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object, in its `__dict__` or in slots, without calling code of its class."""
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            member = kind.__dict__.get(name)
            if isinstance(member, types.MemberDescriptorType):
                try:
                    yield name, member.__get__(value)
                except AttributeError:
                    continue  # the slot is empty
