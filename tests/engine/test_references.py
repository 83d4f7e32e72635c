"""After a swap, every reference that the model's objects hold to a parameter of the head is to the new one."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import swap_head

X = torch.randn(4, 8)


class Box:
    def __init__(self, value: Any) -> None:
        self.value = value


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclasses.dataclass(frozen=True)
class Frozen:
    value: Any


Pair = namedtuple("Pair", "other value")


class Net(nn.Module):
    """Multiply by a parameter that is reached through another reference than the registry."""

    def __init__(self, hold: Callable[[Any], Any], get: Callable[[Any], Any]) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.kernel = nn.Parameter(torch.randn(16, 10))
        self.held = [hold(self.kernel), self.body.weight]
        self.get = get

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) @ self.get(self.held[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("hold", "get"),
    [
        (lambda p: p, lambda held: held),
        (Box, lambda held: held.value),
        (Slotted, lambda held: held.value),
        (Frozen, lambda held: held.value),
        (lambda p: {"a": [p, 1]}, lambda held: held["a"][0]),
        (lambda p: Box((1, p)), lambda held: held.value[1]),
        (lambda p: Box(Pair(None, p)), lambda held: held.value.value),
        (lambda p: Box(Box(p)), lambda held: held.value.value),
    ],
    ids=["list", "object", "slots", "dataclass", "nested", "tuple", "named tuple", "object in an object"],
)
def test_a_reference_follows_learns_and_is_restored(hold: Callable[[Any], Any], get: Callable[[Any], Any]) -> None:
    model = Net(hold, get)
    old, before = model.kernel, model(X)
    swap = swap_head(model, 5, X)
    assert model(X).shape == (4, 5)
    assert get(model.held[0]) is model.kernel is not old
    assert model.held[1] is model.body.weight
    model(X).sum().backward()
    assert model.kernel.grad is not None
    swap.restore()
    assert get(model.held[0]) is model.kernel is old
    assert torch.equal(model(X), before)
    swap.reapply()
    assert get(model.held[0]) is model.kernel is not old


def test_a_layer_in_a_plain_list_stays_tied_to_the_head() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)
            twin = nn.Linear(16, 10)
            twin.weight, twin.bias = self.fc.weight, self.fc.bias
            self.twins = [twin]

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x)
            return self.fc(h) + self.twins[0](h)  # type: ignore[no-any-return]

    model = Tied()
    swap = swap_head(model, 5, X)
    assert model.twins[0].weight is model.fc.weight
    assert model(X).shape == (4, 5)
    swap.restore()
    assert model.twins[0].weight is model.fc.weight
    assert model(X).shape == (4, 10)


def test_a_plain_attribute_and_a_tuple_of_the_model_follow() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 10))
    model.__dict__["direct"] = model[1].weight
    model.pair = (model[0].weight, model[1].weight)
    swap_head(model, 5, X)
    assert model.direct is model.pair[1] is model[1].weight
    assert model.pair[0] is model[0].weight


def test_references_to_a_tied_embedding_stay() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.body, self.fc = nn.Embedding(10, 16), nn.Linear(16, 16), nn.Linear(16, 10, bias=False)
            self.fc.weight = self.emb.weight
            self.tables = [self.emb.weight]

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.body(self.emb(x)).mean(1))  # type: ignore[no-any-return]

    model = Language()
    swap_head(model, 5, torch.ones(2, 3, dtype=torch.long))
    assert model.tables[0] is model.emb.weight
    assert model.emb.weight.shape == (10, 16)
    assert model.fc.weight.shape == (5, 16)
