"""Detect operations that draw random numbers, use batch statistics or combine samples."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from pytest_headswap.engine.pytorch.internals import op_name

_MODES, _PROBABILITIES = ("train", "training"), ("p", "dropout_p", "dropout")
_COMBINING = frozenset(
    (
        *("mean", "sum", "amax", "amin", "max", "min", "logsumexp", "prod", "std", "var", "var_mean", "median"),
        *("linalg_vector_norm", "norm", "_softmax", "_log_softmax", "cumsum", "cumprod", "cummax", "cummin"),
        *("logcumsumexp", "sort", "roll", "flip", "select", "slice"),
    )
)
"""Operations that may combine the entries of a dimension, or pick some of them."""


def is_nondeterministic(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a call of an operation draws random numbers or uses batch statistics."""
    is_random, is_batch_norm = _kind(func)
    if is_batch_norm:
        # Instance norm runs as the batch norm of a single sample, with the batch folded into the channels.
        return bool(_argument(func, args, kwargs, _MODES, default=True)) and int(args[0].shape[0]) > 1
    if not is_random or _argument(func, args, kwargs, _MODES, default=True) is False:
        return False
    return bool(_argument(func, args, kwargs, _PROBABILITIES, default=None) != 0)


def may_combine_samples(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], batch: int) -> bool:
    """Return whether a call may combine the entries of a dimension of length `batch`. May be a false alarm."""
    if _short_name(func) not in _COMBINING or not isinstance(args[0], torch.Tensor):
        return False
    shape = args[0].shape
    dims = _argument(func, args, kwargs, ("dim", "dims"), default=None)
    if not shape or batch < 2 or batch not in shape:
        return False
    if isinstance(dims, (list, tuple)) and dims:
        return any(shape[dim] == batch for dim in dims)
    if not isinstance(dims, int) or isinstance(dims, bool):
        return True
    if _short_name(func) in ("select", "slice"):
        return dims % len(shape) == 0 and shape[0] == batch
    return bool(shape[dims] == batch)


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
