"""Record the features that the heads read, and compare those of one sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from pytest_headswap.case.sample_inputs import batch_size
from pytest_headswap.engine import Inputs, Swap, record_head_calls

_ROUNDING = 64  # times the precision of the dtype


@contextmanager
def record_head_inputs(model: nn.Module, swap: Swap) -> Iterator[dict[str, torch.Tensor]]:
    """Record the last input of each head in the block, by the path of the head. Skip a head that is the model itself.

    The dictionary is filled at the end of the block.
    """
    inputs: dict[str, torch.Tensor] = {}
    with record_head_calls(model, {head.path for head in swap.heads if head.path}) as calls:
        yield inputs
    for path, tensors in calls.items():
        inputs.update((path, call[0]) for call in tensors if call)


def sample_of(
    head_inputs: Mapping[str, torch.Tensor], inputs: Inputs, *, last: bool = False
) -> dict[str, torch.Tensor]:
    """Return the part of each tensor that belongs to the first or last sample.

    The tensors are (batch, ...), (steps, batch, ...) or (batch * parts, ...).
    """
    batch = batch_size(inputs)
    found = {}
    for path, tensor in head_inputs.items():
        if tensor.dim() > 1 and tensor.shape[0] != batch and tensor.shape[1] == batch:
            found[path] = tensor[:, -1 if last else 0]
        else:
            parts = max(1, tensor.shape[0] // batch)
            found[path] = tensor[-parts:] if last else tensor[:parts]
    return found


def feature_differences(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Return the heads whose inputs differ by more than rounding.

    Rounding alone can differ, for example in mixture-of-experts layers, whose batch sizes depend on the other samples.
    """
    differences = []
    for path, tensor in one.items():
        if path not in other or tensor.shape != other[path].shape or torch.equal(tensor, other[path]):
            continue
        mine, theirs = (value if value.is_complex() else value.float() for value in (tensor, other[path]))
        difference = float((mine - theirs).abs().max())
        allowed = _ROUNDING * torch.finfo(tensor.dtype).eps * float(mine.abs().max())
        if not difference <= allowed:
            differences.append(f"{path} by up to {difference:.2g}")
    return differences
