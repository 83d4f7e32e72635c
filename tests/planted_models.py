"""Small models with one fault each, that only some use of the model shows, and small sound ones that look faulty."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

WIDTH = 16


class Planted(nn.Module):
    """A linear backbone and head. Subclasses change what lies between them."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.backbone = nn.Linear(8, WIDTH)
        self.fc = nn.Linear(WIDTH, num_classes)
        self.set_up()

    def set_up(self) -> None:
        """Create what the subclass needs."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features that the head reads."""
        return features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.fc(self.between(self.backbone(x).relu()))  # type: ignore[no-any-return]


# --- trainable tensors that the model does not register


class ModuleInList(Planted):
    def set_up(self) -> None:
        self.blocks = [nn.Linear(WIDTH, WIDTH)]

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return self.blocks[0](features)  # type: ignore[no-any-return]


class ModuleInListForTraining(ModuleInList):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return super().between(features) if self.training else features


class ModuleInObject(Planted):
    def set_up(self) -> None:
        self.parts = SimpleNamespace(adapter=nn.Linear(WIDTH, WIDTH))

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return self.parts.adapter(features)  # type: ignore[no-any-return]


class TensorInObject(Planted):
    def set_up(self) -> None:
        self.parts = SimpleNamespace(scale={"main": torch.ones(WIDTH, requires_grad=True)})

    def between(self, features: torch.Tensor) -> torch.Tensor:
        scale: torch.Tensor = self.parts.scale["main"]
        return features * scale


class TensorInClosure(Planted):
    def set_up(self) -> None:
        scale = torch.ones(WIDTH, requires_grad=True)
        self.rescale: Callable[[torch.Tensor], torch.Tensor] = lambda features: features * scale

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return self.rescale(features)


GLOBAL_LAYER = nn.Linear(WIDTH, WIDTH)
GLOBAL_SCALE = torch.ones(WIDTH, requires_grad=True)


class ModuleInGlobal(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return GLOBAL_LAYER(features)  # type: ignore[no-any-return]


class TensorInGlobal(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features * GLOBAL_SCALE


class TensorCreatedInForward(Planted):
    """Sound: each forward pass creates another tensor, which is no part of the model."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features * torch.ones(WIDTH, device=features.device, requires_grad=True)


# --- devices


class LeavesTheDevice(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features.cpu() if features.is_cuda else features


class AddsFromTheCpu(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features + torch.ones(WIDTH) if features.device.type == "cuda" else features


class HasNoKernel(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        if str(self.fc.weight.device).startswith("cuda"):
            raise RuntimeError("no kernel")
        return features


class AddsFromTheCpuIfCudaIsAvailable(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features + torch.ones(WIDTH) if torch.cuda.is_available() else features


class CannotBeMoved(Planted):
    def to(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("cannot be moved")


class MovesNothing(Planted):
    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        for parameter in self.parameters() if recurse else ():
            fn(parameter)
        return self


class LeavesABufferBehind(Planted):
    def set_up(self) -> None:
        self.register_buffer("offset", torch.ones(WIDTH))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        offset = self._buffers.pop("offset")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers["offset"] = offset
        return self


class FetchesABuffer(LeavesABufferBehind):
    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        nn.Module._apply(self, fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers["offset"] = self.get_buffer("offset").cpu()
        return self


class MovesALooseTensor(Planted):
    """Sound: `_apply` moves a tensor that is neither a parameter nor a buffer, also one in an object."""

    def set_up(self) -> None:
        self.loose = torch.ones(WIDTH)
        self.parts = SimpleNamespace(loose=torch.ones(WIDTH))

    def between(self, features: torch.Tensor) -> torch.Tensor:
        loose: torch.Tensor = self.parts.loose
        return features + self.loose + loose

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.loose = fn(self.loose)
        self.parts.loose = fn(self.parts.loose)
        return self


class AsksForCuda(Planted):
    """Sound: it creates a tensor on CUDA if there is a CUDA device, which the model is then on."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features + torch.ones(WIDTH, device="cuda" if torch.cuda.is_available() else "cpu")


class ImportsAKernel(Planted):
    """Sound: on CUDA it uses a package that this machine lacks."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        if features.is_cuda:
            import kernels_of_no_package  # type: ignore[import-not-found]

            return kernels_of_no_package.run(features)  # type: ignore[no-any-return]
        return features
