"""The commonest operations on meta tensors without torch's own Python implementations, which take most of a run.

An abstract run only needs the shape, dtype and strides of results. For operations whose result is like
their input these follow at once; everything else goes to torch. Nothing here is visible in a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine._torch import TorchDispatchMode, op_name

_LIKE_INPUT = frozenset(
    f"aten::{name}"
    for name in (
        *(
            "relu",
            "gelu",
            "silu",
            "sigmoid",
            "tanh",
            "hardswish",
            "hardsigmoid",
            "hardtanh",
            "leaky_relu",
            "elu",
            "mish",
        ),
        *("softplus", "exp", "neg", "rsqrt", "sqrt"),
    )
)
_KINDS = (torch.Tensor, nn.Parameter)
_INITIALISERS = ("clamp_", "erfinv_", "fill_", "normal_", "uniform_", "zero_")
_IN_PLACE = frozenset(f"{name}_" for name in _LIKE_INPUT) | {f"aten::{name}" for name in _INITIALISERS}


def run_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an operation on meta tensors."""
    first: Any = args[0] if args else None
    if type(first) not in _KINDS or not first.is_meta or not first.is_floating_point():
        return func(*args, **kwargs)
    name = op_name(func)
    if name in _IN_PLACE:
        return first
    if kwargs:
        return func(*args, **kwargs)  # a keyword may be a dtype for the result
    if name in _LIKE_INPUT:
        return torch.empty_like(first)
    shortcut = _SHORTCUTS.get(name)
    result = shortcut(*args) if shortcut is not None else None
    return func(*args, **kwargs) if result is None else result


class MetaMode(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Runs every operation of the block that way."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_on_meta(func, args, kwargs or {})


def _arithmetic(x: torch.Tensor, y: Any, *rounding: Any) -> torch.Tensor | None:
    if rounding:
        return None
    if isinstance(y, (int, float)):
        return torch.empty_like(x)
    if not (isinstance(y, torch.Tensor) and y.is_meta and x.dtype == y.dtype):
        return None
    if x.shape == y.shape:
        return torch.empty_like(x) if x.stride() == y.stride() else None
    if x.dim() >= y.dim() > 0 and x.is_contiguous() and y.is_contiguous():
        fits = all(a == b or b == 1 for a, b in zip(x.shape[::-1], y.shape[::-1], strict=False))
        return torch.empty_like(x) if fits else None
    return None


def _addmm(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor | None:
    fits = a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0] and bias.shape == b.shape[1:]
    return a.new_empty((a.shape[0], b.shape[1])) if fits and bias.dtype == a.dtype == b.dtype else None


def _convolution(x: torch.Tensor, weight: torch.Tensor, *rest: Any) -> torch.Tensor | None:
    bias, strides, paddings, dilations, transposed, _, groups = rest
    plain = x.is_contiguous() and weight.is_contiguous() and weight.is_meta and x.dtype == weight.dtype
    if transposed or not plain or x.dim() != weight.dim() or x.shape[1] != weight.shape[1] * groups:
        return None
    if bias is not None and (bias.dtype != x.dtype or bias.shape != weight.shape[:1]):
        return None
    if weight.stride(-1) != 1 or weight.stride(1) != math.prod(weight.shape[2:]):
        return None  # contiguous either way, but laid out with the channels last, which older versions hand on
    count = x.dim() - 2
    strides, paddings, dilations = ((list(given) * count)[:count] for given in (strides, paddings, dilations))
    sizes = [
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in zip(
            x.shape[2:], weight.shape[2:], strides, paddings, dilations, strict=True
        )
    ]
    return x.new_empty((x.shape[0], weight.shape[0], *sizes)) if min(sizes, default=0) > 0 else None


def _statistics(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    return x.new_empty(shape, dtype=torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype)


def _batch_norm(x: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    width = (x.shape[1],) if rest[4] else (0,)
    return torch.empty_like(x), _statistics(x, width), _statistics(x, width)


def _layer_norm(x: torch.Tensor, shape: Sequence[int], *_: Any) -> tuple[torch.Tensor, ...] | None:
    if tuple(x.shape[-len(shape) :]) != tuple(shape):
        return None
    reduced = (*x.shape[: -len(shape)], *(1 for _ in shape))
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    return result, _statistics(x, reduced), _statistics(x, reduced)


def _group_norm(x: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...] | None:
    if not x.is_contiguous():
        return None
    reduced = (x.shape[0], rest[5])
    return torch.empty_like(x), x.new_empty(reduced), x.new_empty(reduced)


def _softmax(x: torch.Tensor, *rest: Any) -> torch.Tensor | None:
    return torch.empty_like(x) if x.is_contiguous() and len(rest) == 1 else None


_SHORTCUTS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("aten::add", "aten::sub", "aten::mul", "aten::div"), _arithmetic),
    "aten::addmm": _addmm,
    "aten::convolution": _convolution,
    "aten::native_batch_norm": _batch_norm,
    "aten::native_layer_norm": _layer_norm,
    "aten::native_group_norm": _group_norm,
    "aten::_safe_softmax": _softmax,
}
