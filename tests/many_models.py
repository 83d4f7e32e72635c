"""A zoo of 100 sound and 60 broken models: those of other tests, with the check that promises to find each fault."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from pytest_headswap.zoo import ModelSpec, load_zoo
from tests import planted_models
from tests.checks.test_faults import BOUND_TO_A_DEVICE, LATE, UNREGISTERED
from tests.checks.test_sound import SOUND
from tests.faulty_net import FEATURE_FAULTS, FaultyNet
from tests.harness.test_written_counts import WRITTEN
from tests.harness.test_written_counts import Net as WrittenNet


class Plain(nn.Module):
    """A sound model with one of several activations, norms and depths."""

    def __init__(self, number: int, num_classes: int = 10) -> None:
        super().__init__()
        width = 8 + number
        norm = (nn.Identity, nn.LayerNorm, nn.BatchNorm1d)[number % 3]
        activation = (nn.ReLU, nn.GELU, nn.Tanh, nn.SiLU)[number % 4]
        layers = [nn.Sequential(nn.Linear(width, width), norm(width), activation()) for _ in range(number % 5)]
        self.body = nn.Sequential(nn.Linear(8, width), *layers)
        self.head = nn.Linear(width, num_classes, bias=bool(number % 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.body(x))  # type: ignore[no-any-return]


class Exits(planted_models.Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        """End Python."""
        sys.exit("the model ends Python")


class Dies(planted_models.Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        """End the process."""
        os._exit(7)


def _batch(model: nn.Module) -> torch.Tensor:
    return torch.arange(16.0).reshape(2, 8).sin()


def _name(factory: Callable[..., object]) -> str:
    return factory.__name__


def _sound_inputs(kind: Callable[[int], nn.Module], model: nn.Module) -> tuple[torch.Tensor, ...]:
    return tuple(value.clone() for value in SOUND[kind])


def _faulty(fault: str) -> nn.Module:
    model = FaultyNet()
    model.fault = fault
    return model


def _spec(name: str, factory: Callable[..., nn.Module], *arguments: object) -> ModelSpec:
    return ModelSpec(name, partial(factory, *arguments), _batch)


_PLANTED: Mapping[Any, tuple[str, str]] = {
    **{model: ("gradient_flow", f"held by {place}") for model, place in UNREGISTERED.items()},
    **LATE,
    planted_models.LateWidth: ("frozen_backbone", "output has shape .* in step 3"),
    **{model: ("device_placement", message) for model, message in BOUND_TO_A_DEVICE.items()},
    planted_models.LoadsOnlyWhole: ("state_dict", "does not accept checksum of the backbone"),
    planted_models.CopiesAreTrainable: ("round_trip", "loading changed backbone.weight, backbone.bias"),
    planted_models.AttendsToSamples: ("frozen_backbone", "on the other samples .* fc by"),
}
_FEATURES = [fault for fault in FEATURE_FAULTS if fault != "samples exchanged"]
BROKEN: dict[str, tuple[str, str]] = {
    **{f"broken_{model.__name__}": found for model, found in _PLANTED.items()},
    **{f"broken_written_{end.__name__}": ("output_shape", "old class count") for end in WRITTEN},
    **{f"broken_{fault.replace(' ', '_')}": ("frozen_backbone", "cannot be frozen") for fault in _FEATURES},
    "broken_exits": ("output_shape", "the model ends Python"),
    "broken_dies": ("output_shape", "exit status 7"),
}
"""The broken models, the check that promises to find the fault, and a pattern of its message."""

_BUILTIN = load_zoo("builtin")
ZOO = [
    *(_BUILTIN[name] for name in _BUILTIN.names if name != "encoder_without_head"),
    *(ModelSpec(f"sound_{_name(model)}", partial(model, 10), partial(_sound_inputs, model), model) for model in SOUND),
    *(ModelSpec(f"plain_{n:02}", partial(Plain, n), _batch, partial(Plain, n)) for n in range(100 - 34 - len(SOUND))),
    *(_spec(f"broken_{model.__name__}", model) for model in _PLANTED),
    *(_spec(f"broken_written_{end.__name__}", WrittenNet, end) for end in WRITTEN),
    *(_spec(f"broken_{fault.replace(' ', '_')}", _faulty, fault) for fault in _FEATURES),
    _spec("broken_exits", Exits),
    _spec("broken_dies", Dies),
]
