"""Create inputs for real arithmetic: as small as the model accepts, random, and reproducible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import torch

from pytest_headswap.engine import Inputs, preserve_global_state
from pytest_headswap.engine.pytorch import seed_all

_IMAGE_SIZES = (64, 96, 128, 160, 192, 224, 256)


def stable_seed(*names: str) -> int:
    """Return a seed that depends only on these names, and is the same in every process."""
    return crc32("::".join(names).encode())


@contextmanager
def seeded(*names: str) -> Iterator[None]:
    """Seed all random numbers in the block, the same in every process. Restore the RNG states afterwards."""
    with preserve_global_state():
        seed_all(stable_seed(*names))
        yield


def smaller_images(inputs: Inputs) -> Iterator[Inputs]:
    """Yield the inputs with smaller square images, the smallest first. Yield nothing unless the input is one image."""
    images = [tensor for tensor in inputs.tensors() if tensor.dim() >= 4 and tensor.is_floating_point()]
    if len(images) != 1 or len(inputs.tensors()) != 1:
        return
    for size in _IMAGE_SIZES:
        if size < max(images[0].shape[-2:]):
            yield inputs.map_tensors(lambda tensor, size=size: tensor.new_zeros((*tensor.shape[:-2], size, size)))  # type: ignore[misc]


def with_batch_size(inputs: Inputs, batch: int) -> Inputs:
    """Return the inputs with another batch size; samples are repeated as needed."""
    present = batch_size(inputs)

    def repeat(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 0 or tensor.shape[0] != present:
            return tensor
        return tensor[torch.arange(batch) % present]

    return inputs.map_tensors(repeat)


def batch_size(inputs: Inputs) -> int:
    """Return the batch size: the length of the first dimension of the first tensor that has dimensions."""
    return next(tensor.shape[0] for tensor in inputs.tensors() if tensor.dim())


def randomize(inputs: Inputs, seed: int) -> Inputs:
    """Return the inputs with random numbers in place of constant floating-point tensors."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() or bool((tensor != tensor.flatten()[:1]).any()):
            return tensor
        return torch.randn(tensor.shape, generator=generator, device="cpu").to(tensor)

    return inputs.map_tensors(draw)


def with_first_sample_last(inputs: Inputs, seed: int) -> Inputs:
    """Return another batch whose last sample is the first sample of the inputs.

    The samples before it are random numbers, or for integer tensors a rotation of the existing ones.
    """
    batch = batch_size(inputs)
    generator = torch.Generator().manual_seed(seed)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 0 or tensor.shape[0] != batch or batch < 2:
            return tensor
        if tensor.is_floating_point():
            others = torch.randn(tensor[1:].shape, generator=generator, device="cpu").to(tensor)
        else:
            others = tensor[1:].roll(1, -1) if tensor.dim() > 1 else tensor[1:].roll(1, 0)
        return torch.cat([others, tensor[:1]])

    return inputs.map_tensors(change)
