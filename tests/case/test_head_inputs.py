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
ARRANGED: dict[str, Callable[[Tensor], Tensor]] = {
    "one row a sample": lambda x: x,
    "parts of each sample together": lambda x: torch.stack([x * part for part in range(1, PARTS + 1)], 1).flatten(0, 1),
    "samples of each part together": lambda x: torch.cat([x * part for part in range(1, PARTS + 1)]),
    "steps first": lambda x: torch.stack([x * part for part in range(1, PARTS + 1)]),
    "complex": lambda x: torch.complex(x, -x),
}


def compared(first: Tensor, last: Tensor) -> list[str]:
    inputs = Inputs((X,), {})
    return feature_differences(sample_of({"fc": first}, inputs), sample_of({"fc": last}, inputs, last=True))


@pytest.mark.parametrize("arrange", ARRANGED.values(), ids=ARRANGED)
def test_the_same_sample_at_another_place_is_the_same(arrange: Callable[[Tensor], Tensor]) -> None:
    moved = torch.cat([torch.randn(BATCH - 1, 8), X[:1]])
    assert compared(arrange(X), arrange(moved)) == []


@pytest.mark.parametrize("arrange", ARRANGED.values(), ids=ARRANGED)
@pytest.mark.parametrize(
    ("change", "shown"),
    [(lambda x: x + x.mean(0), "fc by up to"), (lambda x: x * x.new_tensor(float("nan")), "fc by up to inf")],
)
def test_a_sample_that_depends_on_the_others_differs(
    arrange: Callable[[Tensor], Tensor], change: Callable[[Tensor], Tensor], shown: str
) -> None:
    moved = torch.cat([torch.randn(BATCH - 1, 8), X[:1]])
    (difference,) = compared(arrange(X), arrange(change(moved)))
    assert difference.startswith(shown)
