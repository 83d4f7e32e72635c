"""Run a model as if on another device, represented by meta tensors, and record where CPU tensors meet device tensors.

Tensors created without a device are real CPU tensors, as they would be for a model on a GPU. An operation that a real
device would reject because it mixes both kinds is recorded. The run then continues as if all its tensors were on the
device.
"""

from __future__ import annotations

from typing import Any

import torch

from pytest_headswap.engine.abstract.meta_cache import cached_meta_op
from pytest_headswap.engine.pytorch.internals import (
    DispatchMode,
    is_view,
    map_tensors,
    mutated_tensors,
    op_name,
    tensors_of_call,
)

_COPY = "aten::copy_"
_TO_COPY = torch.ops.aten._to_copy.default
_ACCEPTS_CPU = frozenset((_COPY, "aten::_pack_padded_sequence"))  # the latter requires lengths on the CPU
_INDEXING = frozenset(f"aten::{name}" for name in ("index", "index_put", "index_put_", "_index_put_impl_"))


class DeviceMixingMode(DispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Run every operation in the block, and record those that a device rejects because of CPU tensors.

    CPU tensors have values, device tensors have none. A copy from the device to the CPU, where its values could be
    read, raises NotImplementedError. With `allow_device_to_cpu`, such a copy returns an uninitialised tensor, which
    must not be read.
    """

    def __init__(self, *, allow_device_to_cpu: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.device_mixes: list[str] = []
        self._allow_device_to_cpu = allow_device_to_cpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation. Other dispatch modes can call this instead of nesting this mode."""
        if func is _TO_COPY and self._allow_device_to_cpu and args[0].is_meta and _goes_to_cpu(kwargs):
            return torch.empty_like(args[0], device="cpu", dtype=kwargs.get("dtype") or args[0].dtype)
        return cached_meta_op(func, args, kwargs, self._run_mixed)

    def _run_mixed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a view, or an operation whose tensors may be on the CPU."""
        if is_view(func):
            return func(*args, **kwargs)
        tensors = tensors_of_call(args, kwargs)
        on_cpu = [tensor for tensor in tensors if not tensor.is_meta]
        if not on_cpu or len(on_cpu) == len(tensors):
            return func(*args, **kwargs)
        name = op_name(func)
        if not self._allow_device_to_cpu and any(not tensor.is_meta for tensor in mutated_tensors(func, args, kwargs)):
            raise NotImplementedError(f"{name} writes a meta tensor, which has no values, to a CPU tensor")
        rejected = _rejected_by_device(name, args, on_cpu)
        if rejected:
            self.device_mixes.append(_mix(name, rejected))
        if name == _COPY and not args[0].is_meta:
            return args[0]  # the values on the device are unknown
        return cached_meta_op(func, map_tensors(args, _to_device), map_tensors(kwargs, _to_device))


class RejectCpuTensors(DispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Raise RuntimeError in the block where an operation mixes tensors on a device with CPU tensors.

    Most real devices do so themselves. Some compute the operation on the CPU instead. Fake tensors do so for most
    operations.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_of_call(args, kwargs)
        on_cpu = [tensor for tensor in tensors if tensor.device.type == "cpu"]
        if len(on_cpu) < len(tensors) and (rejected := _rejected_by_device(op_name(func), args, on_cpu)):
            raise RuntimeError(_mix(op_name(func), rejected))
        return func(*args, **kwargs)


def _rejected_by_device(name: str, args: tuple[Any, ...], on_cpu: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the CPU tensors that a device rejects. It accepts zero-dimensional tensors, copies and indices."""
    if name in _ACCEPTS_CPU:
        return []
    index_ids = {id(index) for index in args[1]} if name in _INDEXING and args[0].device.type != "cpu" else set()
    return [tensor for tensor in on_cpu if tensor.dim() and id(tensor) not in index_ids]


def _mix(name: str, rejected: list[torch.Tensor]) -> str:
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in rejected)
    return f"{name} mixes tensors on the device with a CPU tensor of shape {shapes}"


def _to_device(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_meta else torch.empty_like(tensor, device="meta")


def _goes_to_cpu(kwargs: dict[str, Any]) -> bool:
    device = kwargs.get("device")
    return device is not None and torch.device(device).type == "cpu"
