"""Run a model on the device `meta`, and notice where tensors of the CPU meet those of the device.

What is made without a device is made on the CPU, for real, as it would be beside a model on a GPU. Where it
then meets a tensor of the device, that is noted, and the run goes on as if it had been there.
"""

from __future__ import annotations

from typing import Any

import torch

from pytest_headswap.engine.abstract.meta_cache import run_on_meta
from pytest_headswap.engine.pytorch.inputs import map_tensors
from pytest_headswap.engine.pytorch.internals import (
    TorchDispatchMode,
    is_view,
    mutated_tensors,
    op_name,
    tensors_of_call,
)

_COPY = "aten::copy_"
_TO_COPY = torch.ops.aten._to_copy.default
_INDEXING = frozenset(f"aten::{name}" for name in ("index", "index_put", "index_put_", "_index_put_impl_"))


class DeviceWatch(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Runs every operation of the block; `met` says which ones were given tensors of both.

    What is on the CPU has values, and what is on the device has none. Where values would go from the device to the
    CPU, and could then be read there, this raises NotImplementedError; with `lets_go` what is there is not to be read.
    """

    def __init__(self, *, lets_go: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.met: list[str] = []
        self._lets_go = lets_go

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation: for a dispatch mode that does more with it, and need not have this one below it."""
        if func is _TO_COPY and self._lets_go and args[0].is_meta and _leaves(kwargs):
            return torch.empty_like(args[0], device="cpu", dtype=kwargs.get("dtype") or args[0].dtype)
        return run_on_meta(func, args, kwargs, self._run_beside)

    def _run_beside(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a view, or an operation whose tensors may be on the CPU, or partly so."""
        if is_view(func):
            return func(*args, **kwargs)
        tensors = tensors_of_call(args, kwargs)
        elsewhere = [tensor for tensor in tensors if not tensor.is_meta]
        if not elsewhere or len(elsewhere) == len(tensors):
            return func(*args, **kwargs)
        name = op_name(func)
        if not self._lets_go and any(not tensor.is_meta for tensor in mutated_tensors(func, args, kwargs)):
            raise NotImplementedError(f"{name} writes to a tensor of the CPU what has no values, since it is on meta")
        refused = _refused(name, args, elsewhere)
        if refused:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in refused)
            self.met.append(f"{name} is given tensors of the device and one of the CPU of shape {shapes}")
        if name == _COPY and not args[0].is_meta:
            return args[0]  # values of the device that nobody knows
        return run_on_meta(func, map_tensors(args, _to_device), map_tensors(kwargs, _to_device))


def _refused(name: str, args: tuple[Any, ...], elsewhere: list[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors of the CPU that the device does not take: it takes numbers without dimensions, copies and indices."""
    if name == _COPY:
        return []
    taken = {id(index) for index in args[1]} if name in _INDEXING and args[0].is_meta else set()
    return [tensor for tensor in elsewhere if tensor.dim() and id(tensor) not in taken]


def _to_device(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_meta else torch.empty_like(tensor, device="meta")


def _leaves(kwargs: dict[str, Any]) -> bool:
    device = kwargs.get("device")
    return device is not None and torch.device(device).type == "cpu"
