"""The `builtin` zoo: small models, one for each kind of head. It runs in seconds and needs no library.

A function of the class count builds each model, so that `native_parity` can compare the swapped model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import pytest_headswap.zoo.builtin_models as models
from pytest_headswap.zoo.spec import ModelSpec, Zoo

IMAGES = (2, 3, 32, 32)  # batch, channels, height, width
ROWS = (2, 24)  # batch, features
SEQUENCE = (2, 12, 24)  # batch, steps, features
WAVES = (2, 1, 256)  # batch, channels, samples
CLIPS = (2, 3, 4, 16, 16)  # batch, channels, frames, height, width


@dataclass(frozen=True)
class _Entry:
    build: Callable[[int], nn.Module]
    shape: tuple[int, ...] = IMAGES
    num_classes: int = 10
    head: str | None = None
    has_native: bool = True


# The docstrings in `builtin_models` describe the models.
_ENTRIES: dict[str, _Entry] = {
    "seed_simple_cnn": _Entry(models.simple_cnn, (2, 3, 28, 28)),
    "seed_nested": _Entry(models.nested),
    "seed_two_heads": _Entry(models.TwoHeads, (2, 10), num_classes=5, head="head1"),
    "conv_head": _Entry(models.conv_head),
    "conv_relu_pool": _Entry(models.conv_relu_pool),
    "conv1d_head": _Entry(models.conv1d_head, WAVES),
    "conv3d_head": _Entry(models.conv3d_head, CLIPS),
    "residual": _Entry(models.Residual),
    "distilled": _Entry(models.Distilled),
    "head_list": _Entry(models.HeadList),
    "summed_aux": _Entry(models.SummedAux, SEQUENCE),
    "train_only_aux": _Entry(models.TrainOnlyAux),
    "segmentation": _Entry(models.Segmentation),
    "token_classifier": _Entry(models.token_classifier, SEQUENCE),
    "transformer": _Entry(models.Transformer, SEQUENCE),
    "lstm": _Entry(models.Lstm, SEQUENCE),
    "gru_dict_output": _Entry(models.GruDictOutput, SEQUENCE),
    "softmax_tail": _Entry(partial(models.with_tail, nn.Softmax(dim=-1)), ROWS),
    "log_softmax_tail": _Entry(partial(models.with_tail, nn.LogSoftmax(dim=-1)), ROWS),
    "sigmoid_tail": _Entry(partial(models.with_tail, nn.Sigmoid()), ROWS),
    "batch_norm_behind": _Entry(models.batch_norm_behind, ROWS),
    "class_scale": _Entry(models.ClassScale, ROWS),
    "shared_scale": _Entry(models.SharedScale, ROWS),
    "raw_parameter": _Entry(models.RawParameter, ROWS),
    "cosine": _Entry(models.Cosine, ROWS),
    "root_linear": _Entry(lambda num_classes: nn.Linear(24, num_classes), ROWS),
    "one_class": _Entry(models.linear, ROWS, num_classes=1),
    "no_grad_backbone": _Entry(models.NoGradBackbone),
    "frozen": _Entry(models.frozen),
    "bfloat16": _Entry(models.bfloat16, ROWS),
    "misleading_names": _Entry(models.MisleadingNames, ROWS),
    "alias": _Entry(models.Alias, ROWS),
    "headless": _Entry(models.headless, num_classes=0),
    "headless_conv": _Entry(models.headless_conv, num_classes=0),
    "encoder_without_head": _Entry(lambda _: models.encoder(), SEQUENCE, has_native=False),
}


def load() -> Zoo:
    """List the models without building any."""
    return Zoo("builtin", tuple(_ENTRIES), _spec, {})


def _spec(name: str) -> ModelSpec:
    entry = _ENTRIES[name]
    return ModelSpec(
        name,
        build=partial(entry.build, entry.num_classes),
        example_inputs=partial(_inputs, entry.shape),
        build_native=entry.build if entry.has_native else None,
        head=entry.head,
        family=name.partition("_")[0],
    )


def _inputs(shape: tuple[int, ...], model: Any) -> Tensor:
    """Return random inputs in the dtype of the model's first parameter."""
    parameter: Tensor = next(model.parameters())
    return torch.randn(shape, device=parameter.device, dtype=parameter.dtype)
