"""Whether views of one storage have elements in common."""

from __future__ import annotations

import torch


def are_apart(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two strided tensors of one storage surely share no element, such as the parts that `chunk` returns.

    False where that is not seen: the first and the last element of each are compared, and where the strides are the
    same, and no dimension reaches into the next larger one, the places along each.
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
    """Whether two boxes of numbers, with a digit for each stride, have no number in common."""
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
            return False  # a number has more than one form
        rest += max(one, two) * strides[dim]
    return different
