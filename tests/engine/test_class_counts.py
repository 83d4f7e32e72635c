"""A class count may have any integer type, and the repr of a swap is one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pytest_headswap.engine import HeadSwapError, freeze_backbone, swap_head
from pytest_headswap.zoo import load_zoo

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def perceptron() -> Any:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.mark.parametrize(
    "count",
    [np.int64(5), np.uint8(5), np.array(5), torch.tensor(5), torch.tensor(5, dtype=torch.uint8), len("abcde")],
    ids=repr,
)
def test_every_integer_type_is_a_class_count(count: Any) -> None:
    model = perceptron()
    swap = swap_head(model, count, X, class_names=list("abcde"))
    assert (type(swap.num_classes), swap.num_classes, model[2].out_features) == (int, 5, 5)
    assert type(swap.heads[0].num_classes) is int


@pytest.mark.parametrize(
    "count",
    [
        *(True, np.bool_(True), torch.tensor(True), "5", 5.0, np.float64(5), torch.tensor(5.0), None, -1),
        *(np.int64(-1), np.array([5]), torch.tensor([5]), torch.tensor(5, device="meta")),
    ],
    ids=repr,
)
def test_a_count_that_is_not_a_whole_number_is_refused(count: Any) -> None:
    with pytest.raises(HeadSwapError, match="num_classes must be a whole number") as caught:
        swap_head(perceptron(), count, X)
    assert caught.value.reason == "bad_num_classes"


def test_a_numpy_zero_removes_the_head() -> None:
    model = perceptron()
    swap_head(model, np.int32(0), X)
    assert model(X).shape == (4, 16)


@pytest.mark.parametrize("count", [np.int64(10), torch.tensor(10)], ids=repr)
def test_a_declared_count_of_another_type_is_updated_and_keeps_its_type(count: Any) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_classes = count
            self.body, self.fc, self.side = nn.Linear(8, 16), nn.Linear(16, 10), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.body(x)
            return self.side(x), self.fc(x)

    model = Two()
    swap = swap_head(model, 5, X)
    assert [head.path for head in swap.heads] == ["fc"]
    assert (type(model.num_classes), int(model.num_classes)) == (type(count), 5)


@pytest.mark.parametrize(
    "class_map",
    [{np.int64(1): np.int64(7)}, np.array([2, 7, 3]), torch.tensor([2, 7, 3]), [None, torch.tensor(7)]],
    ids=repr,
)
def test_class_map_accepts_every_integer_type(class_map: Any) -> None:
    model = perceptron()
    old = model[2].weight.detach().clone()
    swap_head(model, 3, X, class_map=class_map)
    assert torch.equal(model[2].weight[1], old[7])


def test_the_repr_of_a_swap_names_each_head() -> None:
    class TwoOutputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 5), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.first(x), self.second(x)

    assert (
        repr(swap_head(TwoOutputs(), 7, X, head=["first", "second"])) == "Swap(TwoOutputs: first 5 -> 7, second 5 -> 7)"
    )


def test_the_repr_of_a_swap_is_one_line_for_any_model() -> None:
    spec = load_zoo("builtin")["residual"]
    assert spec.example_inputs is not None
    model = spec.build()
    swap = swap_head(model, 5, spec.example_inputs(model))
    head = swap.old_heads[0]
    assert repr(swap) == f"Swap({type(model).__name__}: {head.path} {head.num_classes} -> 5)"
    frozen = freeze_backbone(swap)
    total = len(list(model.parameters()))
    assert (
        repr(frozen)
        == f"FrozenBackbone({type(model).__name__}: {len(list(swap.parameters()))} of {total} parameters trainable)"
    )


def test_the_repr_counts_the_heads_it_does_not_list() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList(nn.Linear(8, 4) for _ in range(9))

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [head(x) for head in self.heads]

    text = repr(swap_head(Many(), 2, X, head=[f"heads.{index}" for index in range(9)]))
    assert text.startswith("Swap(Many: heads.0 4 -> 2, ")
    assert text.endswith(", and 5 more heads)")


def test_the_repr_of_a_swap_shows_a_removed_or_added_head() -> None:
    model = perceptron()
    assert repr(swap_head(model, 0, X)) == "Swap(Sequential: 2 10 -> 0)"
    gained: Any = nn.Sequential(nn.Linear(8, 16), nn.Identity())
    gained.num_classes = 0
    assert repr(swap_head(gained, 3, X)) == "Swap(Sequential: 1 0 -> 3)"
    assert repr(swap_head(nn.Linear(8, 4), 3, X)) == "Swap(Linear: (the model itself) 4 -> 3)"
