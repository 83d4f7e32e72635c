"""The zoo of timm: every architecture of the installed version, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

from pytest_headswap.engine import Head
from pytest_headswap.engine.abstract.meta_cache import BuildingOnMeta
from pytest_headswap.zoo.spec import ModelSpec, Zoo

BATCH = 2  # batch norm cannot be trained on one sample
_ONE_SIZE = {"efficientformer"}  # does not heed img_size
_TWO_GRIDS = {"byoanet", "crossvit"}  # blocks, or two patch sizes, have to fit as well: half of what they ship for does


def load() -> Zoo:
    """List the architectures; builds none."""
    return Zoo("timm", tuple(timm.list_models()), _spec, {"timm": timm.__version__})


def _spec(name: str, size: int | None = None) -> ModelSpec:
    """The architecture as it ships, or built for images of `size` x `size`."""
    build = partial(timm.create_model, name, **({} if size is None else {"img_size": (size, size)}))
    family = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
    config = timm.get_pretrained_cfg(name)  # None for a few of older versions
    fixed = config is not None and config.fixed_input_size
    return ModelSpec(
        name,
        build=build,
        example_inputs=partial(_images, size=size),
        native=lambda num_classes: build(num_classes=num_classes),
        family=family,
        notes=_classifier_note,
        small=partial(_small, name, family) if fixed and size is None and family not in _ONE_SIZE else None,
    )


def _small(name: str, family: str) -> ModelSpec:
    """For an architecture that takes images of one size only: the same, built for two cells by two of its coarsest map.

    One cell would do for most, but leaves attention nothing to choose from, and batch norm one value an image.
    """
    if family in _TWO_GRIDS:
        return _spec(name, timm.get_pretrained_cfg(name).input_size[-1] // 2)
    return _spec(name, 2 * _stride(name))


def _stride(name: str) -> int:
    """Pixels on a side of one cell of the coarsest map.

    It is 32 where the model does not say, or cannot be built on the meta device, as many of timm 1.0.3 cannot.
    """
    with suppress(Exception):
        with BuildingOnMeta():
            model: Any = timm.create_model(name)
        return max(int(stage["reduction"]) for stage in model.feature_info)
    return 32


def _images(model: Any, size: int | None = None) -> torch.Tensor:
    """A batch of images (2, 3, height, width), of the size that the architecture ships for or of another."""
    channels, height, width = model.default_cfg["input_size"]
    return torch.zeros(BATCH, channels, size or height, size or width)


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
