"""Record the features that the heads read, and compare those of one sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from pytest_headswap.case.sample_inputs import batch_size
from pytest_headswap.engine import Inputs, Swap, record_head_calls

_ROUNDING = 64  # times the precision of the dtype


@contextmanager
def record_head_inputs(model: nn.Module, swap: Swap) -> Iterator[dict[str, torch.Tensor]]:
    """Record the input of each head in the block, by the path of the head. Skip a head that is the model itself.

    The inputs of several calls are joined if they fit, as for pieces of a batch; otherwise it is that of the last call.
    The dictionary is filled at the end of the block.
    """
    inputs: dict[str, torch.Tensor] = {}
    with record_head_calls(model, {head.path for head in swap.heads if head.path}) as calls:
        yield inputs
    for path, tensors in calls.items():
        if features := [call[0] for call in tensors if call]:
            fits = len({(x.shape[1:], x.dtype) for x in features if x.dim()}) == 1 and all(x.dim() for x in features)
            inputs[path] = torch.cat(features) if fits else features[-1]


Sample = dict[str, list[torch.Tensor]]
"""For each head, its input for one sample, in each way in which the rows may be arranged."""


def sample_of(head_inputs: Mapping[str, torch.Tensor], inputs: Inputs, *, last: bool = False) -> Sample:
    """Return the part of each tensor that belongs to the first or last sample.

    The tensors are (batch, ...), (steps, batch, ...), (batch * parts, ...) or (parts * batch, ...).
    """
    batch = batch_size(inputs)
    found: Sample = {}
    for path, tensor in head_inputs.items():
        if tensor.dim() > 1 and tensor.shape[0] != batch and tensor.shape[1] == batch:
            found[path] = [tensor[:, -1 if last else 0]]
        else:
            parts = max(1, tensor.shape[0] // batch)
            found[path] = [tensor[-parts:] if last else tensor[:parts]]
            if parts > 1:
                found[path].append(tensor[batch - 1 :: batch] if last else tensor[::batch])
    return found


def feature_differences(one: Sample, other: Sample) -> list[str]:
    """Return the heads whose inputs differ by more than rounding, however their rows are arranged.

    Rounding alone can differ, for example in mixture-of-experts layers, whose batch sizes depend on the other samples.
    """
    found = {
        path: [_difference(mine, theirs) for mine, theirs in zip(tensors, other[path], strict=False)]
        for path, tensors in one.items()
        if path in other
    }
    return [f"{path} by up to {min(sizes):.2g}" for path, sizes in found.items() if sizes and min(sizes) > 0]


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference, or 0 if it is within rounding or if the shapes differ."""
    if one.shape != other.shape or torch.equal(one, other):
        return 0
    precision = _ROUNDING * torch.finfo(one.dtype).eps
    one, other = (value if value.is_complex() else value.float() for value in (one, other))
    difference = float((one - other).abs().max())
    if difference <= precision * float(one.abs().max()):
        return 0
    return math.inf if math.isnan(difference) else difference
