"""The features of one sample are compared in each way in which the rows of a batch may be arranged."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pytest_headswap.case.head_inputs import feature_differences, sample_of
from pytest_headswap.engine import Inputs

BATCH, PARTS = 4, 3
X = torch.randn(BATCH, 8, generator=torch.Generator().manual_seed(0))
ARRANGED: dict[str, Callable[[Tensor], Tensor | list[Tensor]]] = {
    "one row a sample": lambda x: x,
    "parts of each sample together": lambda x: torch.stack([x * part for part in range(1, PARTS + 1)], 1).flatten(0, 1),
    "samples of each part together": lambda x: torch.cat([x * part for part in range(1, PARTS + 1)]),
    "steps first": lambda x: torch.stack([x * part for part in range(1, PARTS + 1)]),
    "complex": lambda x: torch.complex(x, -x),
    "each second sample": lambda x: [x[::2], x[1::2]],
    "pieces of different lengths": lambda x: [x[:1], x[1:]],
    "one sample after the other, the last one first": lambda x: list(torch.split(x, 1))[::-1],
    "samples without a dimension": list,
    "pieces with parts": lambda x: [torch.stack([y, -y], 1).flatten(0, 1) for y in (x[3:], x[:3])],
    "the whole batch twice": lambda x: [x * 2, x],
    "as many tokens as samples, twice": lambda x: [torch.stack([x * part for part in range(BATCH)], 1)] * 2,
}


def compared(first: Tensor | list[Tensor], last: Tensor | list[Tensor]) -> list[str]:
    inputs = Inputs((X,), {})
    one, other = ({"fc": calls if isinstance(calls, list) else [calls]} for calls in (first, last))
    return feature_differences(sample_of(one, inputs), sample_of(other, inputs, last=True))


@pytest.mark.parametrize("arrange", ARRANGED.values(), ids=ARRANGED)
def test_the_same_sample_at_another_place_is_the_same(arrange: Callable[[Tensor], Tensor | list[Tensor]]) -> None:
    moved = torch.cat([torch.randn(BATCH - 1, 8), X[:1]])
    assert compared(arrange(X), arrange(moved)) == []


@pytest.mark.parametrize("arrange", ARRANGED.values(), ids=ARRANGED)
@pytest.mark.parametrize(
    ("change", "shown"),
    [(lambda x: x + x.mean(0), "fc by up to"), (lambda x: x * x.new_tensor(float("nan")), "fc by up to inf")],
)
def test_a_sample_that_depends_on_the_others_differs(
    arrange: Callable[[Tensor], Tensor | list[Tensor]], change: Callable[[Tensor], Tensor], shown: str
) -> None:
    moved = torch.cat([torch.randn(BATCH - 1, 8), X[:1]])
    (difference,) = compared(arrange(X), arrange(change(moved)))
    assert difference.startswith(shown)
