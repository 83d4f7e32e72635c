"""A restored swap can be reapplied, and its plan works for another class count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap import HeadSwapError, HeadSwapWarning, swap_head
from pytest_headswap.engine.swapping.swap_head import apply_plan
from pytest_headswap.engine.swapping.transaction import Transaction


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))


def test_reapply_puts_the_same_head_back() -> None:
    model = _model()
    old = model[2].weight
    swap = swap_head(model, 5)
    new = model[2].weight
    swap.restore()
    assert model[2].weight is old
    swap.reapply()
    swap.reapply()
    assert model[2].weight is new
    assert model[2].out_features == 5
    swap.restore()
    assert model[2].weight is old


def test_the_plan_of_a_restored_swap_works_for_another_count() -> None:
    model = _model()
    swap = swap_head(model, 5)
    swap.restore()
    again = apply_plan(swap._plan, 3)
    assert model(torch.zeros(1, 8)).shape == (1, 3)
    assert again.heads[0].num_classes == 3
    again.restore()
    swap.reapply()
    assert model(torch.zeros(1, 8)).shape == (1, 5)


def test_another_count_is_validated_too() -> None:
    swap = swap_head(_model(), 5)
    swap.restore()
    with pytest.raises(HeadSwapError, match="bad_num_classes"):
        apply_plan(swap._plan, -1)


def test_another_count_is_verified_too() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 10)
            self.most = 11

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = self.fc(x)
            return logits.reshape(-1, 7) if logits.shape[1] == 7 * 3 else logits  # type: ignore[no-any-return]

    model = Stubborn()
    swap = swap_head(model, 5)
    swap.restore()
    weight = model.fc.weight
    with pytest.raises(HeadSwapError, match="verification_failed"):
        apply_plan(swap._plan, 21)
    assert model.fc.weight is weight
    assert apply_plan(swap._plan, 21, verify=False).num_classes == 21


def test_changes_are_replayed_in_order() -> None:
    mapping: dict[str, Any] = {"a": 1}
    changes = Transaction()
    changes.set(mapping, "a", 2)
    changes.set(mapping, "b", 3)
    changes.set(mapping, "a", 4)
    changes.roll_back()
    assert mapping == {"a": 1}
    changes.replay()
    assert mapping == {"a": 4, "b": 3}
    changes.roll_back()
    assert mapping == {"a": 1}


def test_unrelated_modules_without_classes_keep_a_count_of_zero() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_classes = 0
            self.layer = nn.Linear(8, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).relu()  # type: ignore[no-any-return]

    class Headless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_classes = 0
            self.encoder = Encoder()
            self.head = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.encoder(x))  # type: ignore[no-any-return]

    model = Headless()
    swap_head(model, 5)
    assert (model.num_classes, model.encoder.num_classes) == (5, 0)


def test_a_layer_with_several_values_per_class_stores_its_new_width() -> None:
    class Boxes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = nn.Linear(8, 10)
            self.boxes = nn.Linear(8, 10 * 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.scores(x), self.boxes(x).reshape(len(x), -1, 4)

    model = Boxes()
    swap_head(model, 5, torch.zeros(2, 8))
    assert (model.scores.out_features, model.boxes.out_features, model.boxes.weight.shape[0]) == (5, 20, 20)


def test_the_module_around_a_head_stores_its_new_width() -> None:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_features, self.out_features, self.num_features = 16, 10, 10
            self.proj = nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.proj(x.mean(1))  # type: ignore[no-any-return]

    model = nn.Sequential(nn.Linear(8, 16), Pool())
    with pytest.warns(HeadSwapWarning, match="num_features = 10"):
        swap = swap_head(model, 5, torch.zeros(2, 3, 8))
    pool: Any = model[1]
    assert (pool.out_features, pool.in_features, pool.num_features) == (5, 16, 10)
    swap.restore()
    assert pool.out_features == 10
