"""A class count that forward combines with the classes as a number is named, unless it follows the swap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_headswap.engine import HeadSwapWarning, swap_head

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
End = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    def __init__(self, end: End, classes: int = 10) -> None:
        super().__init__()
        self.body, self.fc, self.num_classes, self.end = nn.Linear(8, 16), nn.Linear(16, classes), classes, end

    def forward(self, x: Tensor) -> Any:
        return self.end(self, self.fc(self.body(x).relu()))


def evidence(logits: Tensor) -> Tensor:
    return (functional.softplus(logits) + 1).sum(1)


WRITTEN: dict[str, End] = {
    "an uncertainty": lambda net, y: {"logits": y, "uncertainty": 10 / evidence(y)},
    "a scale": lambda net, y: y * 10.0,
    "a shift": lambda net, y: (y, y.logsumexp(1) - 10),
    "a power": lambda net, y: {"logits": y, "sharp": y.softmax(1).pow(10)},
}
FOLLOWS: dict[str, End] = {
    "an attribute": lambda net, y: {"logits": y, "uncertainty": net.num_classes / evidence(y)},
    "the size": lambda net, y: {"logits": y, "uncertainty": y.shape[1] / evidence(y)},
    "another number": lambda net, y: y * 3 + 1,
}


@pytest.mark.parametrize("end", WRITTEN.values(), ids=WRITTEN)
def test_a_count_in_a_computation_after_the_head_is_named(end: End) -> None:
    with pytest.warns(HeadSwapWarning, match=r"forward computes with 10 after the head, at 'test_scalar_counts\.py"):
        swap_head(Net(end), 5, X)


@pytest.mark.parametrize("end", FOLLOWS.values(), ids=FOLLOWS)
def test_a_count_that_follows_is_not_named(end: End) -> None:
    assert swap_head(Net(end), 5, X).notes == ()


def test_a_number_before_the_head_is_not_named() -> None:
    class Scaled(Net):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x * 10)

    assert swap_head(Scaled(lambda net, y: y), 5, X).notes == ()


def test_the_mean_of_two_results_is_not_named() -> None:
    assert swap_head(Net(lambda net, y: (y + y.flip(0)) / 2, 2), 5, X).notes == ()


def test_a_count_that_shapes_a_tensor_is_not_named() -> None:
    assert swap_head(Net(lambda net, y: y.repeat(10, 1)[:4]), 5, X).notes == ()
