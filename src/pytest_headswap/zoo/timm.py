"""The zoo of timm: every architecture of the installed version, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

from pytest_headswap.engine import Head
from pytest_headswap.zoo.model import ModelSpec, Zoo

BATCH = 2  # batch norm cannot be trained on one sample


def load() -> Zoo:
    """List the architectures; builds none."""
    return Zoo("timm", tuple(timm.list_models()), _spec, {"timm": timm.__version__})


def _spec(name: str) -> ModelSpec:
    return ModelSpec(
        name,
        build=partial(timm.create_model, name),
        example_inputs=_images,
        native=lambda num_classes: timm.create_model(name, num_classes=num_classes),
        family=timm.models.model_entrypoint(name).__module__.rpartition(".")[2],
        notes=_classifier_note,
    )


def _images(model: Any) -> torch.Tensor:
    """A batch of images of the size that the architecture was made for: (2, 3, height, width)."""
    return torch.zeros(BATCH, *model.default_cfg["input_size"])


def _classifier_note(model: nn.Module, heads: Sequence[Head]) -> tuple[str, ...]:
    """timm names the classifier in its own metadata; say so where that is not what the data flow shows."""
    config: Any = getattr(model, "default_cfg", {})
    named = config.get("classifier") or ()
    named = {named} if isinstance(named, str) else set(named)
    found = {head.path for head in heads}
    if not named or named == found:
        return ()
    return (f"timm's metadata names {_listed(named)} as the classifier; the data flow shows {_listed(found)}",)


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
