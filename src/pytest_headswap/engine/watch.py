"""Notice where tensors of the CPU meet those of a device, in an abstract run whose device is `meta`.

What is made without a device is made on the CPU, for real, as it would be beside a model on a GPU. Where it
then meets a tensor of the device, that is noted, and the run goes on as if it had been there.
"""

from __future__ import annotations

from typing import Any

import torch

from pytest_headswap.engine._torch import TorchDispatchMode, op_name
from pytest_headswap.engine.inputs import map_tensors
from pytest_headswap.engine.meta import run_on_meta

# a device takes indices from the CPU, and numbers in tensors without dimensions
_MAY_MIX = frozenset(f"aten::{name}" for name in ("index", "index_put_", "index_put", "_index_put_impl_", "copy_"))


class DeviceWatch(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Runs every operation of the block; `met` says which ones were given tensors of both."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.met: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_device, elsewhere = _places(args, kwargs)
        if not on_device:
            return func(*args, **kwargs)
        name = op_name(func)
        if name == "aten::_to_copy" and _leaves(kwargs):
            return torch.empty_like(args[0], device="cpu", dtype=kwargs.get("dtype") or args[0].dtype)
        if not elsewhere:
            return run_on_meta(func, args, kwargs)
        if name not in _MAY_MIX and any(tensor.dim() for tensor in elsewhere):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in elsewhere if tensor.dim())
            self.met.append(f"{name} is given tensors of the device and one of the CPU of shape {shapes}")
        if name == "aten::copy_" and not args[0].is_meta:
            return args[0]  # values of the device that nobody knows
        return run_on_meta(func, map_tensors(args, _to_device), map_tensors(kwargs, _to_device))


def _to_device(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_meta else torch.empty_like(tensor, device="meta")


def _leaves(kwargs: dict[str, Any]) -> bool:
    device = kwargs.get("device")
    return device is not None and torch.device(device).type == "cpu"


def _places(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, list[torch.Tensor]]:
    """Whether a tensor is on the device, and those that are not."""
    on_device = False
    elsewhere: list[torch.Tensor] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, torch.Tensor):
                if item.is_meta:
                    on_device = True
                else:
                    elsewhere.append(item)
    return on_device, elsewhere
