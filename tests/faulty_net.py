"""A model in which faults can be switched on, and cases built from it."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pytest_headswap.case.build import build_case
from pytest_headswap.case.case import Case
from pytest_headswap.case.options import CaseOptions
from pytest_headswap.zoo import ModelSpec

BATCH, WIDTH, OLD, NEW = 2, 16, 10, 5

FEATURE_FAULTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "batch mixed": lambda f: f - f.mean(0),
    "batch mixed a little": lambda f: f + f.mean(0) / 1000,
    "sum of the samples before": lambda f: f + f.cumsum(0),
    "sum of the samples behind": lambda f: f + f.flip(0).cumsum(0).flip(0),
    "first sample subtracted": lambda f: f - f[0],
    "samples exchanged": lambda f: f + f[torch.arange(f.shape[0] - 1, -1, -1)],
    "chance": F.dropout,
    "chance of normal": lambda f: f + torch.normal(0.0, 1.0, f.shape).to(f),
    "chance of rrelu": lambda f: F.rrelu(f - 0.5, training=True),
    "chance of NumPy": lambda f: f * torch.as_tensor(np.random.rand(WIDTH), dtype=f.dtype, device=f.device),
    "chance of Python": lambda f: f * random.random(),
}
"""Faults that change features."""


class FaultyNet(nn.Module):
    """A model that returns logits and features and, in train mode, the logits of an auxiliary head.

    Tests set `fault` after the swap: the engine gets a sound model, and the checks a broken one.
    """

    def __init__(self, num_classes: int = OLD) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.config = SimpleNamespace(
            num_labels=num_classes, id2label={index: str(index) for index in range(num_classes)}
        )
        self.backbone = nn.Linear(8, WIDTH)
        self.bn = nn.BatchNorm1d(WIDTH)
        self.fc = nn.Linear(WIDTH, num_classes)
        self.aux = nn.Linear(WIDTH, num_classes)
        self.register_buffer("steps", torch.zeros(()))
        self.hidden: list[torch.Tensor] = []  # a list, so that its tensors are neither parameters nor buffers
        self.fault = ""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute logits with the current fault."""
        fault, training = self.fault, self.training
        self._misbehave()
        features = self.bn(self.backbone(x)).relu()
        if fault in FEATURE_FAULTS:
            features = FEATURE_FAULTS[fault](features)
        if fault == "hidden tensor is trained":
            features = features * self.hidden[0]
        if fault == "tensor made on the CPU":
            features = features + torch.ones(WIDTH, device="cpu")
        logits = self._broken(self._head(self.fc, features))
        if fault == "features follow the class count":
            features = features[:, :NEW]
        outputs = {"logits": logits, "features": features}
        if fault == "output lost":
            del outputs["features"]
        if training:
            aux = self._head(self.aux, features if features.shape[1] == WIDTH else F.pad(features, (0, WIDTH - NEW)))
            outputs["aux"] = aux.detach() if fault == "auxiliary head detached" else aux
        return outputs

    def _misbehave(self) -> None:
        if self.fault == "backbone unfreezes itself":
            self.backbone.weight.requires_grad_()
        if self.fault == "raises in train mode" and self.training:
            raise RuntimeError("out of luck")
        if self.fault == "buffer written":
            self.get_buffer("steps").add_(1)
        if self.fault == "weight written through .data":
            self.backbone.weight.data.mul_(0.5)
        if self.fault == "weight assigned through .data":
            self.backbone.weight.data = self.backbone.weight.data * 0.5
        if self.fault == "weight assigned":
            self.backbone.weight = nn.Parameter(self.backbone.weight.detach() * 0.5)
        if self.fault == "buffer assigned":
            self.steps = self.get_buffer("steps") + 1
        if self.fault == "buffer assigned in the registry":
            self._buffers["steps"] = self.get_buffer("steps") + 1

    def _broken(self, logits: torch.Tensor) -> torch.Tensor:
        fault = self.fault
        if fault == "old width" or (fault == "old width in train mode" and self.training):
            return F.pad(logits, (0, OLD - NEW))
        if fault == "classes in the wrong dimension":
            return logits.T
        if fault == "samples lost":
            return logits[:1]
        if fault == "class count written into forward":
            return logits.reshape(-1, NEW)
        if fault == "NaN":
            return logits / torch.zeros((), device=logits.device)
        if fault == "infinite gradient":
            return logits + (logits * 0).abs().sqrt()
        if fault == "no gradient left":
            return logits * 0
        if fault == "outputs on the CPU":
            return logits.to("cpu")
        return logits

    def _head(self, layer: nn.Linear, features: torch.Tensor) -> torch.Tensor:
        main = layer is self.fc
        if self.fault == "head without gradients" and main:
            with torch.no_grad():
                return layer(features)  # type: ignore[no-any-return]
        if self.fault == "weight detached" and main:
            return F.linear(features, layer.weight.detach(), layer.bias)
        if self.fault == "head detached in train mode" and main and self.training:
            return layer(features).detach()  # type: ignore[no-any-return]
        if self.fault == "head kept aside" and main:  # `to` does not move this tensor
            return F.linear(features, self.hidden[1])
        if self.fault == "head is not called" and main:
            return F.linear(features, torch.ones(NEW, WIDTH, device=features.device))
        return layer(features)  # type: ignore[no-any-return]


def inputs(_: nn.Module) -> torch.Tensor:
    """Return placeholder inputs for two samples."""
    return torch.zeros(BATCH, 8)


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """Return a function that builds a model, swaps its head for one with 5 classes, and switches a fault on."""

    def make(
        fault: str = "",
        *,
        build: Callable[[], nn.Module] = FaultyNet,
        native: Callable[[int], nn.Module] | None = FaultyNet,
        num_classes: int = NEW,
        evidence: str = "auto",
        device: str = "auto",
    ) -> Case:
        case = build_case(
            "testzoo", ModelSpec("net", build, inputs, native), CaseOptions(num_classes, evidence, device)
        )
        if fault:
            model: Any = case.model
            model.fault = fault
            model.hidden += [torch.zeros(WIDTH, requires_grad=True), torch.zeros(NEW, WIDTH)]
        return case

    return make
