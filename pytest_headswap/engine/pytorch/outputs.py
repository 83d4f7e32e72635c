"""Label each tensor in the output of a model with an expression that the user can read and paste."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import numbers
import types
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Set
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.errors import HeadSwapError

# Values that hold no tensors.
_PLAIN_TYPES = (
    *(numbers.Number, str, bytes, bytearray, type(None), enum.Enum, range, slice, type, types.ModuleType),
    *(dt.date, dt.time, dt.timedelta, type(Ellipsis), weakref.ReferenceType, types.GenericAlias),
    *(torch.Size, torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Generator),
    *(types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType),
)
_ATTRIBUTES_OF_MODULES = frozenset(nn.Module().__dict__)


def flatten_outputs(outputs: Any, label: str = "output") -> list[tuple[str, torch.Tensor]]:
    """Return the labelled tensors of a model's output, depth first, in their original order.

    Tuples, lists, mappings, dataclasses and objects with attributes are searched, such as the distributions of torch.
    Properties and methods are not called. Labels are access expressions: `output`, `output[1]`, `output['aux']`,
    `output.logits`. A tensor under several attributes of one object is listed once, under a public name if it has one.

    Raises:
        HeadSwapError: `opaque_output`, for an object that may hold tensors but cannot be searched, such as a generator.
    """
    return list(_flatten(outputs, label, set()))


def _flatten(outputs: Any, label: str, opened: set[int]) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(outputs, torch.Tensor):
        yield label, outputs
        return
    if _is_plain(outputs) or id(outputs) in opened:
        return
    items = _items(outputs, label)
    if items is None:
        raise HeadSwapError(
            "opaque_output",
            f"{label} is a {type(outputs).__name__}, which the engine cannot search for tensors: return the tensors in "
            "a tuple, a dictionary or a dataclass",
        )
    is_container = isinstance(outputs, (Mapping, tuple, list, Set, deque))
    opened.add(id(outputs))
    listed: set[int] = set()
    for name, value in items:
        if not is_container and isinstance(value, torch.Tensor):
            if id(value) in listed:
                continue
            listed.add(id(value))
        yield from _flatten(value, name, opened)
    if is_container:
        opened.discard(id(outputs))  # only a container that holds itself is skipped


def _items(outputs: Any, label: str) -> list[tuple[str, Any]] | None:
    """Return the parts of an object with their labels, or None if it cannot be opened."""
    if isinstance(outputs, Mapping):
        return [(f"{label}[{key!r}]", value) for key, value in outputs.items()]
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return [(f"{label}.{name}", getattr(outputs, name)) for name in outputs._fields]
    if isinstance(outputs, (tuple, list, deque)):
        return [(f"{label}[{index}]", value) for index, value in enumerate(outputs)]
    if isinstance(outputs, Set):
        return [(f"list({label})[{index}]", value) for index, value in enumerate(outputs)]
    if isinstance(outputs, types.MethodType):
        return None if _holds_tensors(outputs.__self__) else []
    if isinstance(outputs, functools.partial):
        return None if _holds_tensors((outputs.func, outputs.args, outputs.keywords)) else []
    if isinstance(outputs, types.FunctionType):
        return None if _holds_tensors((outputs.__defaults__, outputs.__kwdefaults__, _closure(outputs))) else []
    attributes = _attributes(outputs)
    return None if attributes is None else [(f"{label}.{name}", value) for name, value in attributes.items()]


def _attributes(outputs: Any) -> dict[str, Any] | None:
    """Return the attributes that an object stores, the public ones first, or None if it stores none.

    The parameters, buffers and children of a module are no outputs.
    """
    stored = getattr(outputs, "__dict__", None)
    found = dict(stored) if isinstance(stored, dict) else {}
    slots = [
        (name, slot)
        for base in type(outputs).__mro__
        if "__slots__" in vars(base)
        for name, slot in vars(base).items()
        if isinstance(slot, types.MemberDescriptorType)
    ]
    for name, slot in slots:
        try:
            found[name] = slot.__get__(outputs)
        except AttributeError:  # not assigned
            continue
    if isinstance(outputs, nn.Module):
        found = {name: value for name, value in found.items() if name not in _ATTRIBUTES_OF_MODULES}
    elif not isinstance(stored, dict) and not slots and "__slots__" not in vars(type(outputs)):
        return None
    elif hasattr(type(outputs), "__next__"):
        return None  # an iterator may hold tensors in its running code
    if dataclasses.is_dataclass(outputs):
        fields = [field.name for field in dataclasses.fields(outputs) if field.name in found]
        found = {name: found[name] for name in (*fields, *(name for name in found if name not in fields))}
    return dict(sorted(found.items(), key=lambda item: item[0].startswith("_")))


def _is_plain(value: Any) -> bool:
    # An object that computes its attributes may raise anything, so only the class is asked.
    return isinstance(value, _PLAIN_TYPES) or (hasattr(type(value), "__array_interface__") and value.dtype != object)


def _closure(function: types.FunctionType) -> list[Any]:
    contents = []
    for cell in function.__closure__ or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # not assigned
            continue
    return contents


def _holds_tensors(value: Any) -> bool:
    """Return whether a value holds a tensor, or may hold one."""
    try:
        return bool(flatten_outputs(value))
    except HeadSwapError:
        return True
