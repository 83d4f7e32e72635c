"""A model on another device for the length of a block: moved for real, or simulated where there is no such device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.stand_ins import FAKE, REAL, StandIns, preserved
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import fake_tensor_mode, plain_kernels, quiet_fake_tensors
from pytest_headswap.engine.pytorch.modules import parameters


@contextmanager
def moved(model: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Move the model with its own `to`, and give back what it was; its tensors are copied and not touched.

    Such blocks may be inside each other. `dtype` is for floating-point tensors; None: they keep theirs.
    """
    with preserved(model, _ToBeMoved(model, device, dtype)):
        model.to(device=device, dtype=dtype)
        yield


@contextmanager
def on_meta(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """The model on the meta device in another floating-point type: the nearest to a foreign device without memory."""
    with preserved(model, _OnMeta(dtype)):
        yield


@contextmanager
def simulated(model: nn.Module, inputs: Inputs, device: torch.device) -> Iterator[Callable[[bool], Any]]:
    """The model on a device that need not be there: fake tensors, which know where they would be.

    Yields a function that runs the model, in train mode where its argument is True, and returns its outputs.
    It raises whatever the model raises; for tensors on different devices what torch raises there. Parameters,
    buffers and inputs are on the device; tensors that are neither stay where they are, as `Module.to` leaves
    them. Without gradients: recording them can abort the process where torch was built without CUDA.
    """
    fake = fake_tensor_mode(real_kernels=False)
    on_device = [*parameters(model), *model.buffers(), *inputs.tensors()]
    stand_ins = _Elsewhere(fake, device, on_device)

    def run(training: bool) -> Any:
        model.train(training)
        return model(*given.args, **(given.kwargs or {}))

    with ExitStack() as stack:
        stack.enter_context(preserved(model, stand_ins))
        given = inputs.map_tensors(stand_ins.of)
        stack.enter_context(torch.no_grad())
        stack.enter_context(plain_kernels())
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # it would start the CUDA driver
        stack.enter_context(quiet_fake_tensors())
        stack.enter_context(fake)
        yield run


class Aliases(StandIns):
    """Other tensor objects with the same memory: flags, gradients and attributes come back, values do not."""

    def _bare(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach()


class _ToBeMoved(StandIns):
    """Copies of what `Module.to` leaves as it is; the rest is copied by it, and once is enough."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype | None) -> None:
        super().__init__(REAL)
        self._device, self._dtype = device, dtype
        self._registered = {id(tensor) for tensor in (*parameters(model), *model.buffers())}

    def _bare(self, tensor: torch.Tensor) -> torch.Tensor:
        other_type = self._dtype not in (None, tensor.dtype) and (tensor.is_floating_point() or tensor.is_complex())
        is_moved = id(tensor) in self._registered and (other_type or tensor.device != self._device)
        return tensor.detach() if is_moved else super()._bare(tensor)


class _OnMeta(StandIns):
    """Meta tensors, those of floating-point numbers in another type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def _bare(self, tensor: torch.Tensor) -> torch.Tensor:
        made = super()._bare(tensor)
        return made.to(self._dtype) if made.is_floating_point() else made


class _Elsewhere(StandIns):
    """Fake tensors, some of them on another device."""

    def __init__(self, fake: Any, device: torch.device, on_device: list[torch.Tensor]) -> None:
        super().__init__(FAKE, fake)
        self._device = device
        self._on_device = {id(tensor) for tensor in on_device}

    def _bare(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in self._on_device:
            return super()._bare(tensor)
        with self._fake:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self._device)
