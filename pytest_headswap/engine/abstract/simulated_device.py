"""Run code as if one device of some type were there, and no other, on a machine that need not have it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from pytest_headswap._devices import DEVICE_TYPES
from pytest_headswap.engine.pytorch import accelerators
from pytest_headswap.engine.pytorch.internals import (
    is_fake_tensor_limitation,
    map_tensors,
    tree_map_only,
)

# Fake tensors have a type of device. Some functions need the backend of that type, even without values, and torch has
# the one of lazy tensors in every build.
_LAZY = torch.device("lazy", 0)
_ANYWHERE = frozenset(("cpu", "meta"))


class SimulatedDeviceMode(TorchFunctionMode):
    """Run every function of torch in the block as on a machine with one device and the CPU.

    Device tensors are fake tensors. A function that needs the backend of a device that is not there runs on fake lazy
    tensors instead.

    Raises:
        RuntimeError: the code asks for a device of another type.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function of torch."""
        func, args, kwargs = self._with_full_devices(func, args, kwargs or {})
        try:
            return func(*args, **kwargs)
        except Exception as error:
            if not is_fake_tensor_limitation(error):
                raise
            limitation = error
        try:
            return self._run_on_lazy_tensors(func, args, kwargs)
        except RuntimeError as error:
            if is_fake_tensor_limitation(error):
                raise limitation from None
            raise RuntimeError(str(error).replace(str(_LAZY), str(self._device))) from error
        finally:
            del limitation  # its traceback holds this frame, and so the model

    def _with_full_devices(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        """Write every device with its index, which torch would ask the backend for, and `x.cuda()` as `x.to(...)`."""
        name = getattr(func, "__name__", "")
        if name in _types() and getattr(torch.Tensor, name, None) is func:
            given = args[1] if len(args) > 1 else kwargs.get("device")
            self._full(name if given is None else given)
            return torch.Tensor.to, (args[0], self._full(name)), {}
        to = 1 if func is torch.Tensor.to and len(args) > 1 and type(args[1]) in (str, int) else None
        args = tuple(
            self._full(value) if place == to or type(value) is torch.device else value
            for place, value in enumerate(args)
        )
        if kwargs.get("device") is not None:
            kwargs = kwargs | {"device": self._full(kwargs["device"])}
        return func, args, kwargs

    def _full(self, value: Any) -> torch.device:
        device = torch.device(self._device.type, value) if isinstance(value, int) else torch.device(value)
        if device.type in _ANYWHERE:
            return device
        if device.type != self._device.type or device.index not in (None, self._device.index):
            raise RuntimeError(f"no device {device}: the model is on {self._device}, the only device here")
        return self._device

    def _run_on_lazy_tensors(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run a function on lazy tensors in place of those on the device. Return its results on the device."""
        lazy: dict[int, torch.Tensor] = {}
        originals: dict[int, torch.Tensor] = {}

        def to_lazy(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.device != self._device:
                return tensor
            if id(tensor) not in lazy:
                lazy[id(tensor)] = _like(tensor, _LAZY)
                originals[id(lazy[id(tensor)])] = tensor
            return lazy[id(tensor)]

        def from_lazy(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.device != _LAZY:
                return tensor
            return originals[id(tensor)] if id(tensor) in originals else _like(tensor, self._device)

        args, kwargs = map_tensors((args, kwargs), to_lazy)
        args, kwargs = _with_device((args, kwargs), self._device, _LAZY)
        return _with_device(map_tensors(func(*args, **kwargs), from_lazy), _LAZY, self._device)


def _with_device(tree: Any, old: torch.device, new: torch.device) -> Any:
    return tree_map_only(torch.device, lambda device: new if device == old else device, tree)


def _like(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def _types() -> set[str]:
    return {*DEVICE_TYPES, *accelerators.types()}


@contextmanager
def only_available(device: torch.device) -> Iterator[None]:
    """Let torch say in the block that there is one device of this type and no other.

    torch's own code still gets the truth, which it needs.
    """
    replaced: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, answer: Any) -> None:
        real = getattr(owner, name, None)
        if callable(real):
            replaced.append((owner, name, real))
            setattr(owner, name, _unless_torch_asks(real, answer))

    named = device.type in accelerators.types()
    try:
        for kind in _types():
            for owner in (getattr(torch, kind, None), getattr(torch.backends, kind, None)):
                replace(owner, "is_available", kind == device.type)
                replace(owner, "is_built", kind == device.type)
                replace(owner, "device_count", int(kind == device.type))
        accelerator = getattr(torch, "accelerator", None)  # torch 2.6 and later
        replace(accelerator, "is_available", named)
        replace(accelerator, "device_count", int(named))
        replace(accelerator, "current_accelerator", torch.device(device.type) if named else None)
        yield
    finally:
        for owner, name, real in reversed(replaced):
            setattr(owner, name, real)


def _unless_torch_asks(real: Callable[..., Any], answer: Any) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        return real(*args, **kwargs) if caller.partition(".")[0] == "torch" else answer

    return function
