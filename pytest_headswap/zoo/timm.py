"""The zoo of timm: every architecture of the installed version, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from pytest_headswap.engine import Head, MetaInitContext
from pytest_headswap.zoo.spec import ModelSpec, Zoo

BATCH = 2  # batch norm needs more than one sample in train mode
_ONE_SIZE = {"efficientformer"}  # ignores img_size
_TWO_GRIDS = {"byoanet", "crossvit"}  # attention blocks or a second patch size must also fit: half the size works


def load() -> Zoo:
    """List the architectures without building any."""
    return Zoo("timm", tuple(timm.list_models()), _spec, {"timm": timm.__version__})


def _spec(name: str, size: int | None = None) -> ModelSpec:
    """Return the spec of the architecture as it ships, or built for images of `size` x `size`."""
    build = partial(timm.create_model, name, **({} if size is None else {"img_size": (size, size)}))
    module = timm.models.model_entrypoint(name).__module__
    family = module.rpartition(".")[2]
    config = timm.get_pretrained_cfg(name)  # None for a few models of older versions
    fixed = config is not None and config.fixed_input_size
    return ModelSpec(
        name,
        build=build,
        example_inputs=partial(_images, size=size),
        build_native=lambda num_classes: build(num_classes=num_classes),
        family=family,
        metadata_notes=_classifier_note,
        small_variant=partial(_small_variant, name, family)
        if fixed and size is None and family not in _ONE_SIZE
        else None,
        enable_grad_checkpointing=methodcaller("set_grad_checkpointing", True),
        save_and_load=_save_and_load,
        defined_in=(module,),
    )


def _save_and_load(model: nn.Module, folder: Path) -> nn.Module:
    timm.models.save_for_hf(model, folder)
    return timm.create_model(f"local-dir:{folder}", pretrained=True)  # type: ignore[no-any-return]


def _small_variant(name: str, family: str) -> ModelSpec:
    """Return the spec of a fixed-size architecture for smaller images: its coarsest map has 2 x 2 cells.

    With a single cell, attention would have nothing to choose from, and batch norm only one value per image.
    """
    if family in _TWO_GRIDS:
        return _spec(name, timm.get_pretrained_cfg(name).input_size[-1] // 2)
    return _spec(name, 2 * _stride(name))


def _stride(name: str) -> int:
    """Return the side, in pixels, of one cell of the coarsest map.

    Falls back to 32 if the model does not state it or cannot be built on the meta device, like many of timm 1.0.3.
    """
    with suppress(Exception):
        with MetaInitContext():
            model: Any = timm.create_model(name)
        return max(int(stage["reduction"]) for stage in model.feature_info)
    return 32


def _images(model: Any, size: int | None = None) -> torch.Tensor:
    """Return a batch of images (2, 3, height, width), by default of the architecture's own size."""
    channels, height, width = model.default_cfg["input_size"]
    return torch.zeros(BATCH, channels, size or height, size or width)


def _classifier_note(model: nn.Module, heads: Sequence[Head]) -> tuple[str, ...]:
    """Return a note if the classifier named in timm's metadata differs from the head found by data flow."""
    config: Any = getattr(model, "default_cfg", {})
    named = config.get("classifier") or ()
    named = {named} if isinstance(named, str) else set(named)
    detected = {head.path for head in heads}
    if not named or named == detected:
        return ()
    return (f"timm's metadata names {_join(named)} as the classifier; the data flow shows {_join(detected)}",)


def _join(names: set[str]) -> str:
    return ", ".join(sorted(names))
