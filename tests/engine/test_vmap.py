"""Models that call layers inside `torch.vmap` or `torch.func.grad`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from pytest_headswap.engine import extract_features, freeze_backbone, swap_head
from pytest_headswap.engine.pytorch.internals import without_vmap

X = torch.randn(3, 4, 5)


@pytest.mark.parametrize(
    ("transform", "order"),
    [
        (lambda f: f, (0, 1, 2)),
        (vmap, (0, 1, 2)),
        (lambda f: vmap(f, in_dims=1), (1, 0, 2)),
        (lambda f: vmap(f, in_dims=2), (2, 0, 1)),
        (lambda f: vmap(vmap(f)), (1, 0, 2)),
        (lambda f: vmap(vmap(f, in_dims=1), in_dims=1), (2, 1, 0)),
        (lambda f: grad(lambda x: f(x).sum()), (0, 1, 2)),
        (lambda f: vmap(grad(lambda x: f(x).sum())), (0, 1, 2)),
    ],
)
def test_hidden_dimensions_come_first(transform: Callable[[Any], Any], order: tuple[int, ...]) -> None:
    seen: list[Tensor] = []

    def note(x: Tensor) -> Tensor:
        seen.append(without_vmap(x.detach()).clone())
        return x * 2

    transform(note)(X)
    torch.testing.assert_close(seen, [X.permute(order)])


class OneByOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(5, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return vmap(self.fc)(self.body(x).relu())  # type: ignore[no-any-return]


def test_features_of_a_head_that_is_called_one_by_one_are_those_of_the_batch() -> None:
    model = OneByOne()
    swap = swap_head(model, 7, X[0])
    freeze_backbone(swap)
    features, _ = extract_features(swap, [X[0], X[1]])
    with torch.no_grad():
        torch.testing.assert_close(model.fc(features), torch.cat([model(X[0]), model(X[1])]))
