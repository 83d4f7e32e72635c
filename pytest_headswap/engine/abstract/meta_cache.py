"""Cache the results of operations on meta tensors, because torch's meta kernels dominate the time of an abstract run.

The result of an operation on the meta device depends only on the shapes, strides and dtypes of its tensors and on its
other arguments. A network of many equal blocks, run several times, therefore costs as much as one block. The cache
never changes a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.pytorch.internals import (
    DeviceContext,
    op_name,
    returns_new_tensors,
    storage_key,
    tensors_of_call,
)

_MAX_ENTRIES = 2**16  # maximum number of cached results, about 50 MB
_META = torch.device("meta")
_DTYPES = frozenset(
    (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
)
_PLAIN_TYPES = frozenset(
    (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size)
)


Execute = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""A function that runs an operation on its arguments."""


@dataclass(frozen=True)
class _TensorSpec:
    """The shape, stride and dtype that describe a meta tensor."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def empty(self) -> torch.Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=_META)


class _Uncacheable(Exception):
    """Raised for an argument or a result that shape, stride and dtype do not describe."""


_FIRST_ARGUMENT = "its first argument"
_CacheEntry = _TensorSpec | tuple["_TensorSpec | None", ...] | str
_cache: dict[Any, _CacheEntry] = {}
_undeclared_views: set[Any] = set()
"""Operations that returned a view although their schema does not say so."""


def call_op(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation uncached and return its result."""
    return func(*args, **kwargs)


def cached_meta_op(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], fallback: Execute = call_op) -> Any:
    """Return the result of an operation on meta tensors. `fallback` runs views and operations on other tensors."""
    if not returns_new_tensors(func) or func in _undeclared_views:
        return fallback(func, args, kwargs)  # views are cheap, and share memory with their argument
    try:
        key: Any = (func, torch.get_default_dtype(), *map(_cache_key, args))
        if kwargs:
            key = (*key, *kwargs, *map(_cache_key, kwargs.values()))
    except _Uncacheable:
        return fallback(func, args, kwargs)
    entry = _cache.get(key)
    if entry is None:
        return _compute_and_cache(func, args, kwargs, key)
    if type(entry) is _TensorSpec:
        return entry.empty()
    if entry is _FIRST_ARGUMENT:
        return args[0]
    return tuple(form.empty() if form is not None else None for form in entry)  # type: ignore[union-attr]


class MetaInitContext(DeviceContext):
    """Create the tensors of the block on the meta device, and skip their initialisers."""

    def __init__(self) -> None:
        super().__init__(_META)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _INITIALIZERS:
            tensor = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                return tensor
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call, unused-ignore]


_INIT_METHODS = ("uniform_", "normal_", "zero_", "fill_", "mul_", "div_", "add_", "sub_", "clamp_", "erfinv_")
_INITIALIZERS = frozenset(
    (
        *(getattr(torch.Tensor, name) for name in _INIT_METHODS),
        *(value for name, value in vars(nn.init).items() if name.endswith("_") and callable(value)),
    )
)


def _cache_key(value: Any) -> Any:
    kind = type(value)
    if kind is torch.Tensor or kind is nn.Parameter:
        if not value.is_meta or value.dtype not in _DTYPES or value.layout is not torch.strided:
            raise _Uncacheable
        return value.shape, value.stride(), value.dtype
    if kind in _PLAIN_TYPES:
        return kind, value  # 1, 1.0 and True are equal but lead to different dtypes
    if kind is list or kind is tuple:
        return tuple(map(_cache_key, value))
    raise _Uncacheable


def _compute_and_cache(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], key: Any) -> Any:
    """Run the operation and cache its result."""
    formula = _FORMULAS.get(op_name(func))
    result = formula(*args) if formula is not None and not kwargs else None
    if result is None:
        result = func(*args, **kwargs)
    try:
        entry = _cache_entry(result, args, kwargs, key)
    except _Uncacheable:
        return result
    if len(_cache) >= _MAX_ENTRIES:
        _cache.clear()
    _cache[key] = entry
    return result


def _batch_norm(x: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    width = (x.shape[1],) if rest[4] else (0,)
    return torch.empty_like(x), _statistics(x, width), _statistics(x, width)


def _layer_norm(x: torch.Tensor, shape: Sequence[int], *_: Any) -> tuple[torch.Tensor, ...] | None:
    if tuple(x.shape[-len(shape) :]) != tuple(shape):
        return None
    reduced = (*x.shape[: -len(shape)], *(1 for _ in shape))
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    return result, _statistics(x, reduced), _statistics(x, reduced)


def _statistics(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    return x.new_empty(shape, dtype=torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype)


def _pointwise(x: Any, *rest: Any) -> torch.Tensor | None:
    """Return the result of a pointwise operation if all its tensors have one dtype, shape and stride, else None."""
    if not (isinstance(x, torch.Tensor) and x.is_floating_point() and _is_dense(x)):
        return None
    for other in rest:
        if isinstance(other, torch.Tensor) and (other.dtype, other.shape, other.stride()) != (
            x.dtype,
            x.shape,
            x.stride(),
        ):
            return None
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=_META)


def _in_place(x: torch.Tensor, *_: Any) -> torch.Tensor | None:
    return x if x.is_floating_point() and _is_dense(x) else None


def _is_dense(x: torch.Tensor) -> bool:
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)


def _product_with_bias(bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
    if not (bias.dtype == x.dtype == weight.dtype and x.dim() == weight.dim() == 2 and x.shape[1] == weight.shape[0]):
        return None
    if bias.shape != weight.shape[1:]:
        return None
    return torch.empty((x.shape[0], weight.shape[1]), dtype=x.dtype, device=_META)


_UNARY_OPS = ["gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "relu", "sigmoid", "silu", "tanh"]
# Closed forms for the slowest meta kernels (about 1 ms each) and for the most frequent ones.
_FORMULAS: dict[str, Callable[..., Any]] = {
    "aten::addmm": _product_with_bias,
    "aten::native_batch_norm": _batch_norm,
    "aten::native_layer_norm": _layer_norm,
    **dict.fromkeys((f"aten::{name}" for name in (*_UNARY_OPS, "add", "div", "mul", "sub")), _pointwise),
    **dict.fromkeys((f"aten::{name}_" for name in _UNARY_OPS), _in_place),
}


def _cache_entry(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any], key: Any) -> _CacheEntry:
    if args and result is args[0]:  # an in-place write: a no-op on meta, unless the shape changed
        if _cache_key(result) != key[2]:
            raise _Uncacheable
        return _FIRST_ARGUMENT
    given = {storage_key(tensor) for tensor in tensors_of_call(args, kwargs)}
    if type(result) is torch.Tensor:
        if storage_key(result) in given:
            _undeclared_views.add(key[0])
        return _tensor_spec(result, given)
    if type(result) is not tuple:
        raise _Uncacheable
    return tuple(_tensor_spec(item, given) if item is not None else None for item in result)


def _tensor_spec(tensor: Any, given: set[int | None]) -> _TensorSpec:
    if type(tensor) is not torch.Tensor or storage_key(tensor) in given:
        raise _Uncacheable
    return _TensorSpec(*_cache_key(tensor))
