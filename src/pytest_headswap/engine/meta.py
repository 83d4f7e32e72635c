"""Operations on meta tensors, each asked of torch once: its own Python implementations take most of an abstract run.

What an operation returns on the meta device follows from the shapes, strides and dtypes of its arguments and from its
other arguments. So it is remembered, and a network of many like blocks, run in several ways, costs torch one block.
Nothing here is visible in a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine._torch import TorchDispatchMode, gives_fresh_tensors, storage_key, tensors_of_call

_MOST = 2**16  # results that are remembered, some 50 MB
_META = torch.device("meta")
_DTYPES = frozenset(
    (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
)
_PLAIN = frozenset(
    (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size)
)


@dataclass(frozen=True)
class _Form:
    """What a meta tensor is."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def made(self) -> torch.Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=_META)


class _Unknown(Exception):
    """An argument or a result that is not described by its form."""


_FIRST = "its first argument"
_Known = _Form | tuple["_Form | None", ...] | str
_known: dict[Any, _Known] = {}


def run_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an operation on meta tensors."""
    if not gives_fresh_tensors(func):
        return func(*args, **kwargs)  # views are cheap, and share the memory of what they show
    try:
        key: Any = (func, torch.get_default_dtype(), *map(_key, args))
        if kwargs:
            key = (*key, *kwargs, *map(_key, kwargs.values()))
    except _Unknown:
        return func(*args, **kwargs)
    known = _known.get(key)
    if known is None:
        return _asked(func, args, kwargs, key)
    if type(known) is _Form:
        return known.made()
    if known is _FIRST:
        return args[0]
    return tuple(form.made() if form is not None else None for form in known)  # type: ignore[union-attr]


class MetaMode(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Runs every operation of the block that way."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_on_meta(func, args, kwargs or {})


def _key(value: Any) -> Any:
    kind = type(value)
    if kind is torch.Tensor or kind is nn.Parameter:
        if not value.is_meta or value.dtype not in _DTYPES or value.layout is not torch.strided:
            raise _Unknown
        return value.shape, value.stride(), value.dtype
    if kind in _PLAIN:
        return kind, value  # 1, 1.0 and True are equal, and give results of other dtypes
    if kind is list or kind is tuple:
        return tuple(map(_key, value))
    raise _Unknown


def _asked(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], key: Any) -> Any:
    """What torch says, which is remembered."""
    result = func(*args, **kwargs)
    try:
        known = _described(result, args, kwargs, key)
    except _Unknown:
        return result
    if len(_known) >= _MOST:
        _known.clear()
    _known[key] = known
    return result


def _described(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any], key: Any) -> _Known:
    if args and result is args[0]:  # written to, which on meta changes nothing, unless it has another shape now
        if _key(result) != key[2]:
            raise _Unknown
        return _FIRST
    given = {storage_key(tensor) for tensor in tensors_of_call(args, kwargs)}
    if type(result) is torch.Tensor:
        return _form(result, given)
    if type(result) is not tuple:
        raise _Unknown
    return tuple(_form(item, given) if item is not None else None for item in result)


def _form(tensor: Any, given: set[int | None]) -> _Form:
    if type(tensor) is not torch.Tensor or storage_key(tensor) in given:
        raise _Unknown
    return _Form(*_key(tensor))
