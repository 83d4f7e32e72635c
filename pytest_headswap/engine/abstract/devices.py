"""Put a model on another device for the duration of a block: a real device, or one simulated by fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.device_mode import RejectCpuTensors
from pytest_headswap.engine.abstract.simulated_device import SimulatedDeviceMode, only_available
from pytest_headswap.engine.abstract.stand_ins import FAKE, REAL, StandIns, substituted
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import disable_fused_kernels, fake_tensor_mode, silence_fake_tensor_log
from pytest_headswap.engine.pytorch.modules import parameters


@contextmanager
def on_real_device(model: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Move the model with its own `to` for the duration of the block, then restore it.

    The tensors of the model are copied, not modified. Blocks can be nested. `dtype` applies to floating-point
    tensors; None keeps their dtype.
    """
    with substituted(model, _MovableStandIns(model, device, dtype)):
        model.to(device=device, dtype=dtype)
        yield


def reject_cpu_tensors(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which an operation that mixes tensors on the device with CPU tensors raises RuntimeError.

    Most devices raise in any case. Some, such as those of XLA and of private backends with a fallback, compute such an
    operation on the CPU, and would hide what fails on others.
    """
    return RejectCpuTensors() if _computes_with_cpu_tensors(device) else nullcontext()  # type: ignore[no-untyped-call, unused-ignore]


@cache
def _computes_with_cpu_tensors(device: torch.device) -> bool:
    try:
        mixed = torch.ones(2, device=device) + torch.ones(2, device="cpu")
    except RuntimeError:
        return False
    return mixed.device.type != "cpu"


@contextmanager
def on_meta_device(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Put the model on the meta device in another floating-point dtype for the duration of the block.

    This is the closest approximation of a foreign device that needs no memory.
    """
    with substituted(model, _MetaCastStandIns(dtype)):
        yield


@contextmanager
def on_fake_device(
    model: nn.Module, inputs: Inputs, device: torch.device, moved: Sequence[torch.Tensor]
) -> Iterator[Callable[[bool], Any]]:
    """Put the model on a device that need not exist, for the duration of the block.

    The model consists of fake tensors, which know their device. Inputs and the `moved` tensors are on `device`. Other
    tensors stay where they are. No other accelerator seems available.

    Yields:
        A function that runs the model, in train mode if its argument is True, and returns the outputs. It raises what
        the model raises, and RuntimeError for tensors on different devices. It records no gradients: without CUDA
        support in torch, that can abort the process.
    """
    fake = fake_tensor_mode(real_kernels=False)
    stand_ins = _FakeDeviceStandIns(fake, device, [*moved, *inputs.tensors()])
    for tensor in moved:
        stand_ins.stand_in_for(tensor)

    def run(training: bool) -> Any:
        model.train(training)
        return model(*forward_inputs.args, **forward_inputs.kwargs)

    with ExitStack() as stack:
        stack.enter_context(substituted(model, stand_ins))
        forward_inputs = inputs.map_tensors(stand_ins.stand_in_for)
        stack.enter_context(torch.no_grad())
        stack.enter_context(disable_fused_kernels())
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # it would start the CUDA driver
        stack.enter_context(silence_fake_tensor_log())
        stack.enter_context(only_available(device))
        stack.enter_context(fake)
        stack.enter_context(RejectCpuTensors())  # type: ignore[no-untyped-call, unused-ignore]
        stack.enter_context(SimulatedDeviceMode(device))
        yield run


class AliasStandIns(StandIns):
    """New tensor objects that share the memory of the originals. Everything is restored, except values."""

    def _make(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach()


class _MovableStandIns(StandIns):
    """Copies of the tensors that `Module.to` would leave as they are. `Module.to` itself copies the others."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype | None) -> None:
        super().__init__(REAL)
        self._device, self._dtype = device, dtype
        self._registered = {id(tensor) for tensor in (*parameters(model), *model.buffers())}

    def _make(self, tensor: torch.Tensor) -> torch.Tensor:
        other_type = self._dtype not in (None, tensor.dtype) and (tensor.is_floating_point() or tensor.is_complex())
        is_moved = id(tensor) in self._registered and (other_type or tensor.device != self._device)
        return tensor.detach() if is_moved else super()._make(tensor)


class _MetaCastStandIns(StandIns):
    """Meta tensors; floating-point ones have another dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def _make(self, tensor: torch.Tensor) -> torch.Tensor:
        stand_in = super()._make(tensor)
        return stand_in.to(self._dtype) if stand_in.is_floating_point() else stand_in


class _FakeDeviceStandIns(StandIns):
    """Fake tensors, some of them on another device."""

    def __init__(self, fake: Any, device: torch.device, on_device: list[torch.Tensor]) -> None:
        super().__init__(FAKE, fake)
        self._device = device
        self._on_device = {id(tensor) for tensor in on_device}

    def _make(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in self._on_device:
            return super()._make(tensor)
        with self._fake:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self._device)
