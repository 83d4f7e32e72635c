"""Modules and tensors are listed in the order and under the names that torch uses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_headswap.engine.pytorch import modules
from pytest_headswap.zoo import load_zoo


class Shared(nn.Module):
    """A model with shared modules and tensors, and with names registered as None."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.again = self.first
        self.inner = nn.ModuleList([self.first[0], nn.Linear(2, 3, bias=False)])
        self.tied = self.first[0].weight
        self.register_module("none", None)
        self.register_buffer("table", torch.ones(2))
        self.register_buffer("nothing", None)


def models() -> dict[str, nn.Module]:
    zoo = load_zoo("builtin")
    return {"shared": Shared(), "leaf": nn.Linear(2, 3), **{name: zoo[name].build() for name in zoo.names[:6]}}


def same(ours: object, theirs: object) -> bool:
    return [(name, id(value)) for name, value in ours] == [(name, id(value)) for name, value in theirs]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", models())
def test_modules_and_tensors_are_listed_as_by_torch(name: str) -> None:
    model = models()[name]
    assert same(modules.named_modules(model), model.named_modules())
    assert same(modules.named_modules(model, include_aliases=True), model.named_modules(remove_duplicate=False))
    assert same(modules.named_parameters(model), model.named_parameters(remove_duplicate=False))
    assert same(modules.named_buffers(model), model.named_buffers(remove_duplicate=False))
    assert [id(module) for module in modules.modules(model)] == [id(module) for module in model.modules()]
    assert [id(value) for value in modules.parameters(model)] == [id(value) for value in model.parameters()]
