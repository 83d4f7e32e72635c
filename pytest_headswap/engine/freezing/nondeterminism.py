"""Detect operations that draw random numbers, use batch statistics or combine samples."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cache
from typing import Any

import torch

from pytest_headswap.engine.pytorch.internals import op_name, storage_key

_MODES, _PROBABILITIES = ("train", "training"), ("p", "dropout_p", "dropout")
_COMBINING = frozenset(
    (
        *("mean", "sum", "amax", "amin", "max", "min", "logsumexp", "prod", "std", "var", "var_mean", "median"),
        *("linalg_vector_norm", "norm", "_softmax", "_log_softmax", "cumsum", "cumprod", "cummax", "cummin"),
        *("logcumsumexp", "sort", "roll", "flip", "topk", "kthvalue", "mode", "nanmedian", "aminmax", "std_mean"),
        *("renorm", "index_select", "gather", "scatter", "scatter_add", "index_add", "index_copy", "argmax", "argmin"),
        *("argsort", "take", "_fft_r2c", "_fft_c2c", "_fft_c2r", "_unique2", "unique_dim", "unique_consecutive"),
    )
)
"""Operations that may combine the entries of a dimension, or exchange them."""
_PICKING = frozenset(("select", "slice", "unbind", "split", "split_with_sizes"))
_PRODUCTS = {"mm": 0, "bmm": 0, "matmul": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addbmm": 1, "_cdist_forward": 0}
"""Products of two tensors, and the position of the first one."""
_KERNELS = ("convolution", "pool", "group_norm", "layer_norm", "rms_norm", "batch_norm")


def is_nondeterministic(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a call of an operation draws random numbers or uses batch statistics."""
    is_random, is_batch_norm = _kind(func)
    if is_batch_norm:
        # Instance norm runs as the batch norm of a single sample, with the batch folded into the channels.
        return bool(_argument(func, args, kwargs, _MODES, default=True)) and int(args[0].shape[0]) > 1
    if not is_random or _argument(func, args, kwargs, _MODES, default=True) is False:
        return False
    return bool(_argument(func, args, kwargs, _PROBABILITIES, default=None) != 0)


def may_combine_samples(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch: int,
    of_model: Collection[Any],
    counts: Collection[Any],
) -> bool:
    """Return whether a call may combine or exchange the entries of a dimension of length `batch`.

    It may be a false alarm. Samples folded into a longer first dimension, such as all tokens, are noticed too.

    Args:
        func: the operation.
        args: its arguments.
        kwargs: its keyword arguments.
        batch: the number of samples.
        of_model: keys of the storages of the model's tensors, whose products with samples combine none.
        counts: keys of the storages of indices that count the samples in order.
    """
    kind, first = _combining_kind(func)
    if not kind or batch < 2 or not isinstance(args[first], torch.Tensor):
        return False
    shape = args[first].shape
    if kind == "view":
        if not shape or not args[1] or shape[0] % batch or storage_key(args[0]) in of_model:
            return False
        leading = args[1][0] if args[1][0] >= 0 else args[0].numel() // (math.prod(args[1][1:]) or 1)
        return bool(leading % batch)
    is_folded = bool(shape) and shape[0] > batch and shape[0] % batch == 0 and kind in ("dim", "index")
    if not shape or not (batch in shape or is_folded):
        return False
    rows = {batch, shape[0]} if is_folded and storage_key(args[0]) not in of_model else {batch}
    if kind == "kernel":
        return bool(shape[0] != batch)
    if kind == "product":
        other = args[first + 1]
        meets = shape[-1] == batch or (len(shape) > 1 and batch in other.shape[-1:])
        return meets and storage_key(other) not in of_model and storage_key(args[first]) not in of_model
    if kind == "attention":
        return bool(batch in shape[-2:-1])
    if kind == "index":
        indexed = [index for size, index in zip(shape, args[1], strict=False) if size in rows and index is not None]
        return any(storage_key(index) not in counts for index in indexed)
    if kind == "pad":
        return any(pad and shape[-1 - position // 2] == batch for position, pad in enumerate(args[1]))
    dims = _argument(func, args, kwargs, ("dim", "dims"), default=None)
    if isinstance(dims, (list, tuple)) and dims:
        return any(shape[dim] in rows for dim in dims)
    if not isinstance(dims, int) or isinstance(dims, bool):
        return batch in shape or len(rows) > 1
    return shape[dims] in rows and (kind != "pick" or dims % len(shape) < 2 or _short_name(func) == "slice")


def counts_all(func: Any, args: tuple[Any, ...], batch: int) -> bool:
    """Return whether a call makes an index that counts the samples in order, so that it exchanges none."""
    return _short_name(func) == "arange" and args == (batch,)


@cache
def _combining_kind(func: Any) -> tuple[str, int]:
    """Return how an operation may combine samples, or "", and the position of the first tensor that it combines."""
    name = _short_name(func).rstrip("_")
    if name in _COMBINING or _short_name(func) in _COMBINING:
        return "dim", 0
    if name in _PICKING:
        return "pick", 0
    if name == "constant_pad_nd":
        return "pad", 0
    if name in ("view", "_unsafe_view", "reshape"):
        return "view", 0
    if name in _PRODUCTS:
        return "product", _PRODUCTS[name]
    if name in ("index", "index_put"):
        return "index", 0
    if "attention" in name and "backward" not in name:
        return "attention", 0
    is_kernel = "backward" not in name and (any(kernel in name for kernel in _KERNELS) or name.startswith("linalg_"))
    return ("kernel" if is_kernel else ""), 0


@cache
def _short_name(func: Any) -> str:
    return op_name(func).rpartition("::")[2]


@cache
def _kind(func: Any) -> tuple[bool, bool]:
    """Return whether an operation may draw random numbers, and whether it is a batch norm that may use the batch."""
    name = _short_name(func)
    is_batch_norm = "batch_norm" in name and "backward" not in name
    modes = any(argument.name in _MODES for argument in func._schema.arguments)
    return torch.Tag.nondeterministic_seeded in func.tags, is_batch_norm and (modes or "with_update" in name)


@cache
def _position(func: Any, names: tuple[str, ...]) -> tuple[int, str, Any] | None:
    for position, argument in enumerate(func._schema.arguments):
        if argument.name in names:
            return position, argument.name, argument.default_value
    return None


def _argument(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...], default: Any) -> Any:
    """Return the argument of a call that has one of these names, or `default` if the operation has none of them."""
    found = _position(func, names)
    if found is None:
        return default
    position, name, standard = found
    return args[position] if position < len(args) else kwargs.get(name, standard)
