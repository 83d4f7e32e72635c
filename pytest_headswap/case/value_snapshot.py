"""Record the values of a model, report which have changed bit by bit, and restore them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import nn

from pytest_headswap.case.weight_pool import WEIGHT_POOLS
from pytest_headswap.engine.pytorch import named_buffers, named_parameters


class ValueSnapshot:
    """The values of every parameter and buffer of a model, by all its names.

    The copies are on the CPU, so that a device's own kernels do not decide what is equal. Values in a weight pool are
    not copied, because the pool can draw them again.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._tensors = dict(named_tensors(model))
        self._copies: dict[int, torch.Tensor] = {}
        for tensor in self._tensors.values():
            if not tensor.is_meta and WEIGHT_POOLS.pool_of(tensor) is None and id(tensor) not in self._copies:
                self._copies[id(tensor)] = tensor.detach().to("cpu", copy=True)

    @torch.no_grad()
    def changed(self, without: Collection[str] = ()) -> list[str]:
        """Return the names of tensors whose values have changed, or that are gone."""
        return self._changed(_modified_chunks(), without)

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the values of every recorded tensor."""
        self._restore(_modified_chunks())

    @torch.no_grad()
    def restore_and_list_changes(self, without: Collection[str] = ()) -> list[str]:
        """Do both in a single pass over the values."""
        modified = _modified_chunks()
        changed = self._changed(modified, without)
        self._restore(modified)
        return changed

    def _restore(self, modified: dict[int, set[int]]) -> None:
        for pool in WEIGHT_POOLS:
            pool.redraw(modified[id(pool)])
        for tensor in self._tensors.values():
            copy = self._copies.get(id(tensor))
            if copy is not None and not bitwise_equal(tensor, copy):
                tensor.data.copy_(copy)

    def _changed(self, modified: dict[int, set[int]], without: Collection[str]) -> list[str]:
        now = dict(named_tensors(self._model))
        return [
            name
            for name, tensor in self._tensors.items()
            if name not in without and (name not in now or self._differs(tensor, now[name], modified))
        ]

    def _differs(self, was: torch.Tensor, now: torch.Tensor, modified: dict[int, set[int]]) -> bool:
        if was.is_meta:
            return not now.is_meta
        if now.shape != was.shape or now.dtype != was.dtype:
            return True
        pool = WEIGHT_POOLS.pool_of(was)
        if pool is None:
            return not bitwise_equal(now, self._copies[id(was)])
        same_place = WEIGHT_POOLS.pool_of(now) is pool and now.data_ptr() == was.data_ptr()
        if same_place and not pool.overlaps(was, modified[id(pool)]):
            return False
        return not bitwise_equal(now, pool.original_values(was))


def _modified_chunks() -> dict[int, set[int]]:
    """Return the modified chunks of each weight pool, by the id of the pool."""
    return {id(pool): set(pool.modified_chunks()) for pool in WEIGHT_POOLS}


def named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters and buffers of a model with their names; shared ones under each name."""
    yield from named_parameters(model)
    yield from named_buffers(model)


def bitwise_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors have the same dtype, shape and bits, compared on the CPU. NaN equals itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(_bits(one.cpu()), _bits(other.cpu()))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    integer_type = _INTEGER_TYPES.get(tensor.element_size())
    return (
        tensor.detach().view(integer_type)
        if integer_type is not None
        else tensor.detach().contiguous().view(torch.uint8)
    )


_INTEGER_TYPES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer dtype for each element size in bytes."""
