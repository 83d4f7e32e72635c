"""A warning names what users often overlook, once, with the argument that changes it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap import HeadSwapWarning, Swap, swap_head
from pytest_headswap.engine import apply_plan, plan_swap, read_inputs

X = torch.zeros(2, 8)


def _net(*end: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10), *end)


class InForward(nn.Module):
    """A sigmoid in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x).sigmoid()  # type: ignore[no-any-return]


class InEvalMode(nn.Module):
    """Probabilities in eval mode, and logits in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.softmax = nn.Linear(8, 10), nn.Softmax(-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) if self.training else self.softmax(self.fc(x))  # type: ignore[no-any-return]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kind, self.colour = nn.Linear(8, 10), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.kind(x).softmax(-1), self.colour(x).softmax(-1)


def _warned(call: Callable[[], Swap]) -> list[str]:
    """Return the warnings, which are also the notes of the swap."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        swap = call()
    texts = [str(item.message) for item in caught if item.category is HeadSwapWarning]
    assert texts == list(swap.notes)
    assert all(item.filename == __file__ for item in caught)
    return texts


@pytest.mark.parametrize(
    ("build", "activation", "name"),
    [
        (lambda: _net(nn.Softmax(-1)), "softmax", "2"),
        (lambda: _net(nn.Sigmoid()), "sigmoid", "2"),
        (InForward, "sigmoid", "fc"),
        (lambda: nn.DataParallel(_net(nn.Softmax(-1))), "softmax", "2"),
    ],
)
def test_an_activation_that_stays_is_named_once(build: Callable[[], nn.Module], activation: str, name: str) -> None:
    (text,) = _warned(lambda: swap_head(build(), 5, X))
    assert text.startswith(f"a {activation} stays after {name}, so the model does not return logits")
    assert "pass activation='drop'" in text


def test_heads_with_the_same_activation_share_a_warning() -> None:
    (text,) = _warned(lambda: swap_head(Two(), {"kind": 5, "colour": 4}, X))
    assert text.startswith("a softmax stays after kind, colour,")


@pytest.mark.parametrize(
    "call",
    [
        lambda: swap_head(_net(nn.Softmax(-1)), 5, X, activation="drop"),
        lambda: swap_head(_net(nn.LogSoftmax(-1)), 5, X),  # cross_entropy of log-probabilities is that of logits
        lambda: swap_head(InEvalMode(), 5, X),
        lambda: swap_head(_net(), 5, X),
        lambda: swap_head(_net(), 10, X, class_map=range(10)),
        lambda: swap_head(_net(), 10, X, init="zeros"),
        lambda: swap_head(_net(), 10, X, new_head=nn.Linear),
        lambda: swap_head(_net(), 0, X),
    ],
)
def test_nothing_is_said_where_it_is_as_wanted(call: Callable[[], Swap]) -> None:
    assert _warned(call) == []


@pytest.mark.parametrize(
    ("build", "x"), [(_net, X), (InForward, X), (lambda: nn.Conv2d(8, 10, 1), torch.zeros(2, 8, 4, 4))]
)
def test_a_head_that_was_drawn_again_is_named_with_what_keeps_it(
    build: Callable[[], nn.Module], x: torch.Tensor
) -> None:
    text = _warned(lambda: swap_head(build(), 10, x))[-1]
    assert "had 10 classes before, and was initialised again" in text
    assert "pass class_map=range(10), or call freeze_backbone(model) without a swap" in text


def test_what_the_warning_says_keeps_the_values() -> None:
    model = _net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    swap_head(model, 10, X, class_map=range(10))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_the_head_with_its_old_count_is_named() -> None:
    texts = _warned(lambda: swap_head(Two(), {"kind": 10, "colour": 4}, X))
    assert texts[-1].startswith("kind had 10 classes before")


def test_plans_of_the_harness_have_no_such_notes() -> None:
    for model in (_net(nn.Softmax(-1)), _net()):
        assert apply_plan(plan_swap(model, read_inputs(X)), 10).notes == ()
