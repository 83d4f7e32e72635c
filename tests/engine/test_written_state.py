"""A forward pass that writes to the state of a model is noticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.engine import WrittenState


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Any] = {}
        self.history = [1]
        self.register_buffer("steps", torch.zeros(()))


@pytest.mark.parametrize(
    "write",
    [
        lambda net: net.seen.update(first=1),
        lambda net: net.history.append(1),
        lambda net: net.history.clear(),
        lambda net: net.steps.add_(1),
        lambda net: net.register_buffer("steps", torch.zeros(())),
        lambda net: setattr(net, "seen", None),
    ],
    ids=["an entry of a dictionary", "an item", "no items", "in place", "another tensor", "an attribute"],
)
def test_a_change_is_noticed(write: Any) -> None:
    net = Net()
    state = WrittenState(net)
    assert not state.has_changed()
    write(net)
    assert state.has_changed()
