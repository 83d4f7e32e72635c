"""A probe leaves the values of tensors outside of modules as they were, wherever forward writes to them."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import find_heads, freeze_backbone, swap_head

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Slots:
    __slots__ = ("table",)

    def __init__(self, table: Tensor) -> None:
        self.table = table


HOLDERS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "a namespace": (lambda table: types.SimpleNamespace(table=table), lambda held: held.table),
    "slots": (Slots, lambda held: held.table),
    "a list": (lambda table: [table], lambda held: held[0]),
    "a nested dictionary": (lambda table: {"a": {"b": table}}, lambda held: held["a"]["b"]),
    "a closure": (lambda table: lambda: table, lambda held: held()),
    "a partial function": (lambda table: functools.partial(lambda x: x, table), lambda held: held()),
}
WRITES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "in place": lambda table, h: table.add_(1),
    "through a view": lambda table, h: table[:3].mul_(2).add_(1),
    "by index": lambda table, h: table.__setitem__(0, 5.0),
    "by assignment to out": lambda table, h: torch.add(table, 1, out=table),
}


class Net(nn.Module):
    def __init__(self, held: Any, read: Callable[[Any], Tensor], write: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)
        self.held, self.read, self.write = held, read, write

    def forward(self, x: Tensor) -> Any:
        h, table = self.body(x).relu(), self.read(self.held)
        self.write(table, h)
        return self.fc(h + table)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("holder", HOLDERS)
def test_a_tensor_that_forward_writes_to_keeps_its_values(
    holder: str, write: Callable[[Tensor, Tensor], object]
) -> None:
    hold, read = HOLDERS[holder]
    table = torch.arange(16.0)
    model = Net(hold(table), read, write)
    assert [head.path for head in find_heads(model, X)] == ["fc"]
    swap = swap_head(model, 5, X)
    assert read(model.held) is table
    assert torch.equal(table, torch.arange(16.0))
    assert model(X).shape == (4, 5)
    assert not torch.equal(table, torch.arange(16.0))
    swap.restore()
    assert model(X).shape == (4, 10)


def test_a_frozen_model_that_writes_to_an_object_in_train_mode_keeps_the_values() -> None:
    def write(table: Tensor, h: Tensor) -> None:
        if model.training:
            table.mul_(0.9).add_(0.1)

    table = torch.arange(16.0)
    model = Net(types.SimpleNamespace(table=table), lambda held: held.table, write)
    freeze_backbone(swap_head(model, 5, X))
    assert torch.equal(table, torch.arange(16.0))
    model.train()(X)
    assert torch.equal(table, torch.arange(16.0))
