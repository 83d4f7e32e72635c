"""Read what a model states about its inputs: whole example inputs, or sizes under the names that libraries use.

A statement is only a hint. It decides what is tried first, and counts only if the model runs on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import nn

from pytest_headswap._numbers import as_count
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs, read_inputs

_EXAMPLES = ("example_input_array", "dummy_inputs")
_CONFIGS = ("pretrained_cfg", "default_cfg", "config", "cfg", "hparams", "args")
_SHAPES = ("input_size", "input_shape", "in_shape", "image_size", "img_size", "input_image_size", "input_dims")
_IMAGE_SIZES = (*_SHAPES, "img_dim", "spatial_size", "crop_size", "sample_size", "resolution")
_CHANNELS = ("in_chans", "num_channels", "in_channels", "n_chans", "n_channels", "channels", "input_channels", "c_in")
_LENGTHS = (
    *("n_times", "seq_len", "chunk_size", "seq_length", "sequence_length", "input_length", "context_length"),
    *("max_seq_len", "max_length", "max_position_embeddings", "block_size", "num_frames", "frames"),
)
_WIDTHS = ("in_features", "input_dim", "input_features", "n_features", "num_features", "d_in")
_MAX_MODULES = 30  # the first modules, which may state sizes in place of the model


@dataclass(frozen=True)
class StatedSizes:
    """Sizes that a model states, the most reliable first.

    Attributes:
        shapes: shapes of one sample.
        images: heights and widths, or depths, heights and widths; one number stands for all of them.
        channels: numbers of channels.
        lengths: lengths of a sequence, a signal or a clip.
        widths: numbers of features.
    """

    shapes: tuple[tuple[int, ...], ...]
    images: tuple[tuple[int, ...], ...]
    channels: tuple[int, ...]
    lengths: tuple[int, ...]
    widths: tuple[int, ...]


def stated_inputs(model: nn.Module) -> Iterator[Inputs]:
    """Yield the example inputs that the model itself holds."""
    for name in _EXAMPLES:
        value = _get(model, name)
        with suppress(HeadSwapError):
            inputs = read_inputs(value) if value is not None else None
            if inputs is not None:
                yield inputs


def stated_sizes(model: nn.Module) -> StatedSizes:
    """Return the sizes that the model, its configuration or its first layers state."""
    owners = [*(_get(model, name) for name in _CONFIGS), model]
    inner = [vars(module) for module in islice(model.modules(), 1, _MAX_MODULES)]
    stated = [size for owner in owners for size in _sizes(owner, _SHAPES)]
    images = [size for owner in (*owners, *inner) for size in _sizes(owner, _IMAGE_SIZES)]
    return StatedSizes(
        tuple(dict.fromkeys(size for size in stated if len(size) > 1)),
        tuple(dict.fromkeys(images)),
        *(
            tuple(dict.fromkeys(size[0] for owner in owners for size in _sizes(owner, names) if len(size) == 1))
            for names in (_CHANNELS, _LENGTHS, _WIDTHS)
        ),
    )


def _sizes(owner: Any, names: tuple[str, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the positive whole numbers, and the sequences of them, that the owner has under these names."""
    for name in names:
        value = _get(owner, name)
        numbers = tuple(as_count(item) for item in (value if isinstance(value, (tuple, list)) else (value,)))
        sizes = tuple(number for number in numbers if number and number > 0)
        if sizes and len(sizes) == len(numbers):
            yield sizes


def _get(owner: Any, name: str) -> Any:
    """Return an attribute or item, or None. A property of the model may raise anything."""
    with suppress(Exception):
        return owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)
    return None
