"""Record the features that the heads read, and compare those of one sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product

import torch
from torch import nn

from pytest_headswap.case.sample_inputs import batch_size
from pytest_headswap.engine import Inputs, Swap, record_head_calls

_ROUNDING = 64  # times the precision of the dtype


HeadInputs = dict[str, list[torch.Tensor]]
"""The input of each call of a head, by the path of the head."""


@contextmanager
def record_head_inputs(model: nn.Module, swap: Swap) -> Iterator[HeadInputs]:
    """Record the input of each call of a head in the block. Skip a head that is the model itself.

    The dictionary is filled at the end of the block.
    """
    inputs: HeadInputs = {}
    with record_head_calls(model, {head.path for head in swap.heads if head.path}) as calls:
        yield inputs
    for path, tensors in calls.items():
        if features := [call[0] for call in tensors if call]:
            inputs[path] = features


Sample = dict[str, list[torch.Tensor]]
"""For each head, its input for one sample, in each way in which the rows may be arranged."""


def sample_of(head_inputs: Mapping[str, Sequence[torch.Tensor]], inputs: Inputs, *, last: bool = False) -> Sample:
    """Return the part of each tensor that belongs to the first or last sample.

    The tensors are (batch, ...), (steps, batch, ...), (batch * parts, ...) or (parts * batch, ...). If each of several
    calls has the whole batch, the last one counts. If the calls are pieces of it, in any order, each row may be the
    sample.
    """
    batch = batch_size(inputs)
    found: Sample = {}
    for path, calls in head_inputs.items():
        tensor = calls[-1]
        if tensor.dim() > 1 and tensor.shape[0] != batch and tensor.shape[1] == batch:
            found[path] = [tensor[:, -1 if last else 0]]
        else:
            parts = max(1, tensor.shape[0] // batch)
            found[path] = [tensor[-parts:] if last else tensor[:parts]]
            if parts > 1:
                found[path].append(tensor[batch - 1 :: batch] if last else tensor[::batch])
        found[path] += [pair[last] for pair in product(_rows_of_pieces(calls, batch), repeat=2)]
    return found


def _rows_of_pieces(calls: Sequence[torch.Tensor], batch: int) -> list[torch.Tensor]:
    """Return the rows of each sample, in the order of the calls, if these can be pieces of a batch."""
    if len(calls) == 1 or any(call.dim() == 0 or call.shape[1:] != calls[0].shape[1:] for call in calls):
        return []
    if len(calls) == batch and len({call.shape for call in calls}) == 1:
        return list(calls)  # one sample each, also without a dimension for samples
    joined = torch.cat(list(calls))
    return list(joined.reshape(batch, -1, *joined.shape[1:])) if len(joined) % batch == 0 else []


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
