"""Decide whether two views of one storage share elements."""

from __future__ import annotations

import torch


def are_disjoint(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two strided tensors in one storage certainly share no element, as the chunks of a tensor do.

    The test is conservative: False means "unknown". It compares the first and last elements. If the strides are equal
    and dimensions do not overlap, it also compares the index ranges along each dimension.
    """
    if one.layout is not torch.strided or other.layout is not torch.strided or not (one.numel() and other.numel()):
        return False
    first, second = int(one.storage_offset()), int(other.storage_offset())
    if _end(one) <= second or _end(other) <= first:
        return True
    strides = one.stride()
    if strides != other.stride() or 0 in strides:
        return False
    return _differ_along_a_dimension(first, second, one.shape, other.shape, strides)


def _end(tensor: torch.Tensor) -> int:
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.storage_offset() + reach + 1)


def _differ_along_a_dimension(
    first: int, second: int, shape: torch.Size, other: torch.Size, strides: tuple[int, ...]
) -> bool:
    """Return whether two boxes of offsets are certainly disjoint.

    Write each offset as a number with one digit per stride. The boxes are disjoint if their digit ranges do not
    overlap in some dimension, or if their remainders differ. Both arguments require that every offset has only one
    representation.
    """
    different = False
    digits: list[tuple[int, int]] = []
    order = sorted(range(len(strides)), key=lambda dim: -strides[dim])
    for dim in order:
        (one, first), (two, second) = divmod(first, strides[dim]), divmod(second, strides[dim])
        digits.append((one + shape[dim] - 1, two + other[dim] - 1))
        different = different or one >= two + other[dim] or two >= one + shape[dim]
    different = different or first != second
    rest = max(first, second)
    for (one, two), dim in zip(reversed(digits), reversed(order), strict=True):
        if rest >= strides[dim]:
            return False  # an offset has more than one representation
        rest += max(one, two) * strides[dim]
    return different
