"""`activation="drop"` removes only an activation that nothing but the swapped heads uses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, swap_head

X = torch.randn(4, 8)


class Net(nn.Module):
    """A model with two heads and one sigmoid. `uses` says where the sigmoid runs."""

    def __init__(self, *uses: str) -> None:
        super().__init__()
        self.uses = uses
        self.body, self.gate = nn.Linear(8, 16), nn.Linear(16, 16)
        self.fc, self.other = nn.Linear(16, 10), nn.Linear(16, 10)
        self.sig: nn.Module = nn.Sigmoid()
        self.again = self.sig

    def forward(self, x: Tensor) -> Any:
        h = self.body(x)
        if "gate" in self.uses:
            h = h * self.again(self.gate(h))
        if "train" in self.uses and self.training:
            h = h * self.sig(h)
        out = self.sig(self.fc(h))
        if "twice" in self.uses:
            out = out + self.sig(self.fc(h * 2))
        if "other" in self.uses:
            return out, self.sig(self.other(h))
        if "flag" in self.uses:
            return out, self.sig(h) > 0.5
        return out


@pytest.mark.parametrize("use", ["gate", "train", "flag"])
def test_an_activation_that_the_backbone_uses_is_refused(use: str) -> None:
    model = Net(use).eval()
    before = model(X)
    with pytest.raises(HeadSwapError, match=r"sig applies sigmoid after the head and also runs elsewhere") as caught:
        swap_head(model, 5, X, activation="drop")
    assert caught.value.reason == "shared_activation"
    assert isinstance(model.sig, nn.Sigmoid)
    torch.testing.assert_close(model(X), before)


def test_an_activation_of_two_swapped_heads_is_dropped() -> None:
    model = Net("other")
    swap_head(model, 5, X, head=["fc", "other"], activation="drop")
    outputs = model(X)
    assert [output.shape for output in outputs] == [(4, 5), (4, 5)]
    assert min(output.min() for output in outputs) < 0


def test_an_activation_that_a_head_keeps_is_refused() -> None:
    model = Net("other")
    with pytest.raises(HeadSwapError) as caught:
        swap_head(model, 5, X, head="fc", activation="drop")
    assert caught.value.reason == "shared_activation"


def test_an_activation_that_follows_one_head_twice_is_dropped() -> None:
    model = Net("twice")
    swap_head(model, 5, X, activation="drop")
    assert isinstance(model.sig, nn.Identity)


def test_a_shared_relu_is_left_alone() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(8, 16), relu, nn.Linear(16, 10), relu, nn.Softmax(-1))
    swap_head(model, 5, X, activation="drop")
    assert model[1] is model[3] is relu
    assert isinstance(model[4], nn.Identity)
