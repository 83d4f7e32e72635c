"""Inputs for real arithmetic: as small as the model takes, random, and always the same for one model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import torch

from pytest_headswap.engine.abstract.stand_ins import preserved_globals
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import seed

_SIZES = (64, 96, 128, 160, 192, 224, 256)


def seed_of(*names: str) -> int:
    """A seed that depends on these names alone, in every process."""
    return crc32("::".join(names).encode())


@contextmanager
def seeded(*names: str) -> Iterator[None]:
    """A block with random numbers of its own, the same in every process; those of the user go on after it."""
    with preserved_globals():
        seed(seed_of(*names))
        yield


def sizes(inputs: Inputs) -> Iterator[Inputs]:
    """The inputs with smaller and smaller square images, the smallest first, where an image is all there is."""
    images = [tensor for tensor in inputs.tensors() if tensor.dim() >= 4 and tensor.is_floating_point()]
    if len(images) != 1 or len(inputs.tensors()) != 1:
        return
    for size in _SIZES:
        if size < max(images[0].shape[-2:]):
            yield inputs.map_tensors(lambda tensor, size=size: tensor.new_zeros((*tensor.shape[:-2], size, size)))  # type: ignore[misc]


def with_batch(inputs: Inputs, batch: int) -> Inputs:
    """The inputs with another number of samples: those that there are, again and again."""
    present = batch_of(inputs)

    def repeat(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 0 or tensor.shape[0] != present:
            return tensor
        return tensor[torch.arange(batch) % present]

    return inputs.map_tensors(repeat)


def batch_of(inputs: Inputs) -> int:
    """How many samples the inputs hold: the first dimension of the first tensor that has one."""
    return next(tensor.shape[0] for tensor in inputs.tensors() if tensor.dim())


def drawn(inputs: Inputs, seed: int) -> Inputs:
    """The inputs with random numbers where they hold placeholders: floating-point tensors of one value throughout."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() or bool((tensor != tensor.flatten()[:1]).any()):
            return tensor
        return torch.randn(tensor.shape, generator=generator, device="cpu").to(tensor)

    return inputs.map_tensors(draw)


def with_other_companions(inputs: Inputs, seed: int) -> Inputs:
    """The first sample of the inputs as it is, among others: random ones, or for whole numbers those of a neighbour."""
    batch = batch_of(inputs)
    generator = torch.Generator().manual_seed(seed)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 0 or tensor.shape[0] != batch or batch < 2:
            return tensor
        other = tensor.clone()
        if tensor.is_floating_point():
            other[1:] = torch.randn(other[1:].shape, generator=generator, device="cpu").to(tensor)
        else:
            other[1:] = other[1:].roll(1, -1) if tensor.dim() > 1 else other[1:].roll(1, 0)
        return other

    return inputs.map_tensors(change)
