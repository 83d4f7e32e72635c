"""Shapes of an input that fit the layers of a model, any of which may be the first to see the input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from math import isqrt, prod

import torch
from torch import nn

from pytest_headswap.engine.abstract.stated_inputs import StatedSizes

BATCH = 2  # batch norm needs more than one sample in train mode
NUM_TOKENS = 16
IMAGE_SIZES = (224, 32, 64, 28, 96, 128, 256, 299, 384, 512, 112, 160, 192, 240, 288, 320, 331, 448, 48, 16, 8)
_SIGNAL_LENGTHS = (1024, 16000, 256, 128, 64, 3000, 48000, 512)
_CLIP_SIZES = ((16, 112), (8, 32), (4, 16), (16, 224), (8, 224), (32, 224), (16, 128))  # frames, height and width
_VOLUME_SIZES = (64, 96, 32, 128, 48)
_COMMON_CHANNELS = (3, 1)
_CLASS_TOKENS = (0, 1, 2, 4, 5)  # entries of a position table that stand for no patch
_FRAMES_PER_PATCH = (2, 1, 4, 8)
_PATCH_SIDES = (16, 8, 32, 4)
_MAX_GRIDS = 6
_MAX_ELEMENTS = 2**25  # of one input

_SPATIAL_LAYERS = (
    (nn.Conv1d, nn.BatchNorm1d, 1),
    (nn.Conv2d, nn.BatchNorm2d, 2),
    (nn.Conv3d, nn.BatchNorm3d, 3),
)


@dataclass(frozen=True)
class Shape:
    """The shape of an input, and its dtype unless that is the dtype of the model."""

    sizes: tuple[int, ...]
    dtype: torch.dtype | None = None


def layer_shapes(model: nn.Module, stated: StatedSizes) -> Iterator[list[Shape]]:
    """Yield, for each layer that may be the first and has not been seen in this form, the shapes that fit it."""
    grids = _grids(model)
    seen: set[tuple[str, int]] = set()
    for module in model.modules():
        for key, shapes in _layer(module, stated, grids):
            if key not in seen:
                seen.add(key)
                yield list(_small(shapes))


def common_shapes(model: nn.Module, stated: StatedSizes) -> Iterator[Shape]:
    """Yield shapes that many models accept, for those whose first layer says too little."""
    channels = (*stated.channels, *_COMMON_CHANNELS)
    sizes = [*stated.images, *((size,) for size in IMAGE_SIZES)]
    for size, count in product(sizes, channels):
        yield from _small(_spatial(2, count, (size,)))
    for size, count in product(_clips(stated), channels):
        yield from _small(_spatial(3, count, (size,)))
        yield from _small(Shape((BATCH, size[0], count, *size[1:])) for _ in size[2:])  # a sequence of images
    for length, count in product((*stated.lengths, *_grids(model)[1], *_SIGNAL_LENGTHS), channels):
        yield from _small([Shape((BATCH, count, length)), Shape((BATCH, length, count))])
    yield from _small(Shape((BATCH, length)) for length in (*stated.lengths, *_SIGNAL_LENGTHS))


def stated_shapes(stated: StatedSizes) -> Iterator[Shape]:
    """Yield the shapes that follow from stated sizes alone, without a look at the layers."""

    def shapes() -> Iterator[Shape]:
        for shape in stated.shapes:
            yield Shape((BATCH, *shape))
            yield Shape((BATCH, shape[-1], *shape[:-1]))  # channels last
            if shape[0] == 1:  # the batch is included
                yield Shape((BATCH, *shape[1:]))
            yield Shape(shape)
        for size, count in product(stated.images, stated.channels):
            if len(size) > 1:
                yield Shape((BATCH, count, *size))
            else:
                yield from (Shape((BATCH, count, *size * rank)) for rank in (2, 3, 1))
        for count, length in product(stated.channels, stated.lengths):
            yield Shape((BATCH, count, length))
            yield Shape((BATCH, length, count))
        for width in stated.widths:
            yield Shape((BATCH, width))
            yield from (Shape((BATCH, length, width)) for length in (*stated.lengths, NUM_TOKENS))

    return _small(shapes())


def _small(shapes: Iterable[Shape]) -> Iterator[Shape]:
    return (shape for shape in shapes if prod(shape.sizes) <= _MAX_ELEMENTS)


def _layer(module: nn.Module, stated: StatedSizes, grids: _Grids) -> Iterator[tuple[tuple[str, int], Iterator[Shape]]]:
    """Yield what the layer takes, as a key that equal layers share, and the shapes that fit it."""
    for conv, norm, rank in _SPATIAL_LAYERS:
        if isinstance(module, conv):
            stride = max(module.stride)
            patched: list[tuple[int, ...]] = [(stride * grid,) for grid in grids[rank]] if stride > 1 else []
            yield (f"{rank}d", module.in_channels), _spatial(rank, module.in_channels, _sizes(rank, stated, patched))
        elif isinstance(module, norm):
            yield (f"{rank}d", module.num_features), _spatial(rank, module.num_features, _sizes(rank, stated, []))
    if isinstance(module, nn.Embedding):
        lengths = (NUM_TOKENS, *stated.lengths)
        yield ("indices", 0), (Shape((BATCH, length), torch.long) for length in lengths)
    elif isinstance(module, nn.BatchNorm1d):
        yield ("features", module.num_features), _features(module.num_features, stated, grids)
    elif isinstance(module, nn.RNNBase):
        yield ("sequence", module.input_size), _sequences(module.input_size, stated)
    elif isinstance(module, nn.MultiheadAttention):
        yield ("sequence", module.embed_dim), _sequences(module.embed_dim, stated)
    elif isinstance(module, nn.Linear):
        yield ("features", module.in_features), _features(module.in_features, stated, grids)
    elif not any(True for _ in module.children()):
        for value in module.parameters(recurse=False):
            if value.dim() in (1, 2):
                yield ("features", value.shape[-1]), _features(value.shape[-1], stated, grids)


def _spatial(rank: int, channels: int, sizes: Iterable[tuple[int, ...]]) -> Iterator[Shape]:
    """Yield batches of signals, images, clips or volumes. One number stands for all dimensions."""
    for size in sizes:
        if len(size) == 1 or len(size) == rank:
            yield Shape((BATCH, channels, *(size * rank if len(size) == 1 else size)))
        if rank == 1:
            if channels == 1:
                yield Shape((BATCH, *size))
            yield Shape((BATCH, *size, channels))


def _sizes(rank: int, stated: StatedSizes, patched: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return sizes to try: what is stated, the most common size, what fits a position table, and other sizes."""
    first: list[tuple[int, ...]]
    if rank == 3:
        first, common = [size for size in stated.images if len(size) != 2], _clips(stated)
    elif rank == 2:
        first, common = list(stated.images), [(size,) for size in IMAGE_SIZES]
    else:
        first, common = [(length,) for length in stated.lengths], [(length,) for length in _SIGNAL_LENGTHS]
    return [*first, common[0], *patched, *common[1:]]


def _clips(stated: StatedSizes) -> list[tuple[int, ...]]:
    """Return sizes of clips and volumes, in turn."""
    clips = [(length, *size * 2) for length in stated.lengths for size in stated.images if len(size) == 1]
    common = [(frames, size, size) for frames, size in _CLIP_SIZES]
    return [*clips, common[0], *((size,) for size in _VOLUME_SIZES), *common[1:]]


def _sequences(width: int, stated: StatedSizes) -> Iterator[Shape]:
    for length in (*stated.lengths, NUM_TOKENS):
        yield Shape((BATCH, length, width))
        yield Shape((BATCH, width, length))


def _features(width: int, stated: StatedSizes, grids: _Grids) -> Iterator[Shape]:
    """Yield features, sequences of features, and what has this many numbers in each patch or as a whole."""
    yield Shape((BATCH, width))
    yield from _sequences(width, stated)
    for channels, pixels in _factors(width, stated):
        side = isqrt(pixels)
        if side**2 == pixels:
            yield from (Shape((BATCH, channels, side * grid, side * grid)) for grid in grids[2])
        yield from (Shape((BATCH, channels, pixels * grid)) for grid in grids[1])
        if side**2 == pixels:
            yield Shape((BATCH, channels, side, side))
        for frames in _FRAMES_PER_PATCH:
            side = isqrt(pixels // frames)
            if side > 1 and side**2 * frames == pixels:
                for count, grid in product((8, *stated.lengths), grids[2]):
                    yield Shape((BATCH, channels, frames * count, side * grid, side * grid))
        side = round(pixels ** (1 / 3))
        if side > 1 and side**3 == pixels:
            yield from (Shape((BATCH, channels, *(side * grid,) * 3)) for grid in grids[3])


def _factors(width: int, stated: StatedSizes) -> Iterator[tuple[int, int]]:
    """Yield numbers of channels and pixels whose product is the width."""
    known = dict.fromkeys((*stated.channels, *_COMMON_CHANNELS))
    for channels in (*known, *(width // side**2 for side in _PATCH_SIDES if width // side**2 not in known)):
        if channels and width % channels == 0 and width > channels:
            yield channels, width // channels


_Grids = dict[int, list[int]]


def _grids(model: nn.Module) -> _Grids:
    """Return how many patches a sequence (1), an image (2) or a volume (3) may have along each of its dimensions.

    The position tables of the model tell.
    """
    counts: dict[int, None] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            continue
        for value in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if (value.dim() == 3 and value.shape[0] == 1) or value.dim() == 2:
                counts.setdefault(value.shape[-2])
    grids: _Grids = {1: [], 2: [], 3: []}
    for patches in (count - extra for count in counts for extra in _CLASS_TOKENS):
        for rank, found in grids.items():
            side = round(max(patches, 0) ** (1 / rank))
            if side > 1 and side**rank == patches and side not in found and len(found) < _MAX_GRIDS:
                found.append(side)
    return grids
