"""The error of a failed verification names the line of forward that has the old class count written in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, swap_head

X = torch.randn(4, 8)


class Net(nn.Module):
    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.fc, self.end = nn.Linear(8, 16), nn.Linear(16, 10), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.fc(self.body(x).view(-1, 4, 4).flatten(1)))


def reshaped(x: Tensor) -> Tensor:
    return x.view(-1, 10)  # reshaped


def cut(x: Tensor) -> Tensor:
    return x[:, :10]  # cut


def added(x: Tensor) -> Tensor:
    bias = torch.zeros(10)  # added
    return x + bias


def weighted(x: Tensor) -> Tensor:
    return x * torch.tensor([1.0] * 10)


@pytest.mark.parametrize(("end", "count"), [(reshaped, 5), (reshaped, 15), (cut, 15), (added, 5), (added, 15)])
def test_the_line_is_named_and_example_inputs_are_not_blamed(end: Callable[[Tensor], Tensor], count: int) -> None:
    model = Net(end)
    before = model(X)
    with pytest.raises(HeadSwapError) as caught:
        swap_head(model, count, X)
    message = caught.value.message
    assert caught.value.reason == "verification_failed"
    assert "The old class count (10) is written into forward at 'test_written_count.py:" in message
    assert f"# {end.__name__}'" in message
    assert "Use the size of the tensor there" in message
    assert "example_inputs" not in message
    assert "report this architecture" not in message
    assert torch.equal(model(X), before)


def test_a_constraint_of_a_layer_is_named() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 10), nn.GroupNorm(5, 10))
    with pytest.raises(HeadSwapError, match=r"It was raised in 2 \(GroupNorm\)") as caught:
        swap_head(model, 7, X)
    assert "choose a class count that the layer accepts" in caught.value.message


def test_the_line_that_raises_is_named_if_the_count_is_nowhere_written() -> None:
    model = Net(weighted)
    with pytest.raises(HeadSwapError, match=r"test_written_count.py:\d+: return x \* torch.tensor"):
        swap_head(model, 7, X)
