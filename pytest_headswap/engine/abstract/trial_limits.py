"""Limit the memory and time of a trial: a forward pass on inputs that may not fit the model."""

from __future__ import annotations

import time
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import torch

from pytest_headswap.engine.abstract.meta_cache import cached_meta_op
from pytest_headswap.engine.pytorch import accelerators
from pytest_headswap.engine.pytorch.internals import (
    DispatchMode,
    is_view,
    map_tensors,
    op_name,
    returns_argument,
    tensors_of_call,
)

_MAX_BYTES = 2**30
_MAX_FREE_FRACTION = 0.25


class TrialLimitError(RuntimeError):
    """A trial would take too much memory or time."""


class TrialLimits(DispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Raise TrialLimitError before an operation exceeds the memory that all results may take, or the deadline.

    All results count, also those that forward drops, because a recorded run keeps them. `max_bytes=None` limits only
    the time.
    """

    def __init__(self, deadline: float, max_bytes: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self._deadline = deadline
        self._max_bytes = max_bytes
        self._used = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if time.monotonic() > self._deadline:
            raise TrialLimitError("the time for trials was used up")
        if self._max_bytes is not None and not is_view(func) and not returns_argument(func):
            self._used += _bytes_needed(func, args, kwargs)
            if self._used > self._max_bytes:
                raise TrialLimitError(f"{op_name(func)} exceeds the {self._max_bytes >> 20} MiB allowed for trials")
        return func(*args, **kwargs)


def max_trial_bytes(device: torch.device) -> int:
    """Return how many bytes a trial with real arithmetic may take: 1 GiB, or a quarter of the free memory if less."""
    return min(_MAX_BYTES, int(_MAX_FREE_FRACTION * _free_bytes(device)))


def _bytes_needed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return the bytes of the result and of the work space, from shapes alone."""
    try:
        options = {"device": "meta"} if "device" in kwargs else {}
        result = cached_meta_op(func, map_tensors(args, _to_meta), map_tensors(kwargs, _to_meta) | options)
    except Exception:  # noqa: BLE001 - an operation whose result depends on values
        return sum(tensor.nbytes for tensor in tensors_of_call(args, kwargs))
    results = [item for item in (result if isinstance(result, (list, tuple)) else (result,)) if torch.is_tensor(item)]
    needed = sum(tensor.nbytes for tensor in results)
    if op_name(func) == "aten::convolution" and not args[6]:
        # Without its fused kernels, torch copies the input once for each element of the kernel.
        weight, output = args[1], results[0]
        needed += weight[0].numel() * output.shape[0] * prod(output.shape[2:]) * output.element_size()
    return needed


def _to_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _free_bytes(device: torch.device) -> int:
    if (of_device := accelerators.free_memory(device)) is not None:
        return of_device
    free = [4 * _MAX_BYTES]  # where the system does not say
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        free.append(int(text.partition("MemAvailable:")[2].split()[0]) * 2**10)
    with suppress(OSError, ValueError):  # the limit of a container
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        free.append(max(0, int(limit) - int(used)))
    return min(free)
