"""Random values for parameters that were built without memory, from a pool that all models share.

A model of a billion parameters then costs no more memory than its largest layers, and the next model reuses the
values. The layout of a model does not depend on earlier models. Layers of one model share values only if it has more
parameters than the pool.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from pytest_headswap.case.skip_init import SkipInitModel

_CHUNK = 2**18  # elements, 1 MB of float32
_CHUNKS = 2**6
_DEVIATIONS = range(2, 8)  # standard deviations 1/4 to 1/128, for 16 to 16,384 inputs per neuron
_DISTINCT_LAYERS = 8  # number of layers of the largest size with different values
_WRAP_OFFSET = 4099  # offset added on each wrap-around, so that equal-shaped layers get different values


_Key = tuple[int, torch.dtype]
"""Standard deviation of a pool, as a power of 1/2, and its dtype."""


class WeightPool:
    """Values of one standard deviation and dtype, drawn in chunks on demand. `data_ptr` is their memory address."""

    def __init__(self, exponent: int, dtype: torch.dtype) -> None:
        self._exponent = exponent
        self._values = torch.empty(0, dtype=dtype)
        self._digests: list[int] = []
        self.reset_layout(0)

    def reset_layout(self, largest: int) -> None:
        """Reset the layout for another model. `largest` is the element count of its largest parameter here."""
        self._next = self._used = self._wraps = 0
        # from this model only: the layout must not depend on earlier models
        self._length = max(_CHUNKS, math.ceil((largest + _DISTINCT_LAYERS * _WRAP_OFFSET) / _CHUNK)) * _CHUNK
        if not self._length <= len(self._values) <= 2 * self._length:
            filled = min(len(self._digests), self._length // _CHUNK)
            values = torch.empty(self._length, dtype=self._values.dtype)
            values[: filled * _CHUNK] = self._values[: filled * _CHUNK]
            self._values, self._digests = values, self._digests[:filled]
            self.data_ptr = values.untyped_storage().data_ptr()

    def allocate(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return values in the shape of `parameter`, as a view of the pool."""
        needed = parameter.numel()
        if self._next + needed > self._length:
            self._wraps += 1
            self._next = self._wraps * _WRAP_OFFSET % (self._length - needed + 1)
        start, self._next = self._next, self._next + needed
        self._used = max(self._used, self._next)
        while len(self._digests) * _CHUNK < self._used:
            index = len(self._digests)
            self._fill_chunk(index)
            self._digests.append(self._digest(index))
        return self._values[start : self._next].view(parameter.shape)

    def modified_chunks(self) -> list[int]:
        """Return the chunks in use whose values were modified. Nearly as fast as reading the memory."""
        used = math.ceil(self._used / _CHUNK)
        return [index for index in range(used) if self._digest(index) != self._digests[index]]

    def redraw(self, chunks: Iterable[int]) -> None:
        """Draw these chunks again."""
        for index in chunks:
            self._fill_chunk(index)

    def overlaps(self, tensor: torch.Tensor, chunks: set[int]) -> bool:
        """Return whether a tensor in this pool overlaps one of the chunks."""
        first, last = tensor.storage_offset(), tensor.storage_offset() + tensor.numel() - 1
        return not chunks.isdisjoint(range(first // _CHUNK, last // _CHUNK + 1))

    def original_values(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the original values of a tensor in this pool, even if they were modified."""
        first, size = tensor.storage_offset(), tensor.numel()
        chunks = range(first // _CHUNK, (first + size - 1) // _CHUNK + 1)
        values = torch.cat([self._chunk_values(index) for index in chunks])
        start = first - chunks[0] * _CHUNK
        return values[start : start + size].view(tensor.shape)

    def _fill_chunk(self, index: int) -> None:
        self._chunk(index).copy_(self._chunk_values(index))

    def _chunk_values(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        values = torch.randn(_CHUNK, generator=generator, device="cpu", dtype=torch.float32)
        return (values * 2.0**-self._exponent).to(self._values.dtype)

    def _chunk(self, index: int) -> torch.Tensor:
        return self._values[index * _CHUNK : (index + 1) * _CHUNK]

    def _digest(self, index: int) -> int:
        words = self._chunk(index).view(torch.int64)
        return int(torch.dot(words, _digest_weights()[: len(words)]))  # integer overflow is intended: this is a hash


@cache
def _digest_weights() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    bounds = (-(2**62), 2**62)
    return torch.randint(*bounds, (_CHUNK,), generator=generator, device="cpu", dtype=torch.int64) | 1


@dataclass(frozen=True)
class WeightPools:
    """The pools of this process, by standard deviation and dtype."""

    pools: dict[_Key, WeightPool]

    def fill(self, model: SkipInitModel) -> None:
        """Give values to every parameter without values, under all its names."""
        parameters = {id(value): value for value in model.model.parameters() if model.is_uninitialized(value)}
        largest: dict[_Key, int] = {}
        for parameter in parameters.values():
            largest[_key(parameter)] = max(largest.get(_key(parameter), 0), parameter.numel())
        for key in largest.keys() | self.pools.keys():
            self.pools.setdefault(key, WeightPool(*key)).reset_layout(largest.get(key, 0))
        filled: dict[int, nn.Parameter] = {}
        for module in model.model.modules():
            for name, empty in module._parameters.items():
                if empty is not None and id(empty) in parameters:
                    if id(empty) not in filled:
                        values = self.pools[_key(empty)].allocate(empty)
                        filled[id(empty)] = parameter = nn.Parameter(values, empty.requires_grad)
                        parameter.__dict__.update(empty.__dict__)  # attributes that libraries set on parameters
                    module._parameters[name] = filled[id(empty)]

    def pool_of(self, tensor: torch.Tensor) -> WeightPool | None:
        """Return the pool that holds a tensor, or None."""
        if tensor.device.type != "cpu":
            return None
        data_ptr = tensor.untyped_storage().data_ptr()
        return next((pool for pool in self.pools.values() if pool.data_ptr == data_ptr), None)

    def __iter__(self) -> Iterator[WeightPool]:
        return iter(self.pools.values())


def _key(parameter: torch.Tensor) -> _Key:
    inputs_of_a_neuron = parameter.numel() / parameter.shape[0]
    # With a variance of 1 / fan_in, signals neither vanish nor explode.
    exponent = round(math.log2(inputs_of_a_neuron) / 2)
    return min(max(exponent, _DEVIATIONS[0]), _DEVIATIONS[-1]), parameter.dtype


WEIGHT_POOLS = WeightPools({})
