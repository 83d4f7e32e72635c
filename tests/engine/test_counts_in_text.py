"""Texts that are the class count follow a swap under its names. A text that states the old count is named in a note."""

from __future__ import annotations

import types
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapWarning, Swap, swap_head

X = torch.randn(4, 8)


class Net(nn.Module):
    """A model with ten classes, and texts around its head."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.body(x).relu())
        return out


def swapped(model: nn.Module) -> Swap:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadSwapWarning)
        return swap_head(model, 3, X)


@pytest.mark.parametrize("name", ["num_classes", "num_labels", "n_classes"])
@pytest.mark.parametrize("kind", ["attribute", "namespace", "dict"])
def test_a_text_that_is_the_count_follows_under_its_names(name: str, kind: str) -> None:
    values = {name: "10", "name": "resnet10"}
    holders: dict[str, dict[str, Any]] = {
        "attribute": values,
        "namespace": {"config": types.SimpleNamespace(**values)},
        "dict": {"config": {"head": values}},
    }
    model = Net(**holders[kind])
    swap = swapped(model)

    def now() -> str:
        model_: Any = model
        if kind == "attribute":
            return str(getattr(model, name))
        return str(getattr(model_.config, name) if kind == "namespace" else model_.config["head"][name])

    assert now() == "3"
    assert swap.notes == ()
    swap.restore()
    assert now() == "10"


@pytest.mark.parametrize(
    "text",
    [
        "10",
        "num_classes=10",
        "--width 4 --nc=10",
        '{"labels": 10, "width": 4}',
        "labels: 10\nwidth: 4",
        "Linear(in_features=16, out_features=10, bias=True)",
        "outputs = '10'",
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_text_that_states_the_old_count_is_named(text: str, nested: bool) -> None:
    model: Any = Net(config=types.SimpleNamespace(line=text)) if nested else Net(line=text)
    (note,) = swapped(model).notes
    assert note.startswith("config.line = " if nested else "line = ")
    assert "states the old class count" in note
    assert (model.config.line if nested else model.line) == text


def test_such_a_note_is_a_warning() -> None:
    with pytest.warns(HeadSwapWarning, match="states the old class count"):
        swap_head(Net(line="classes=10"), 3, X)


@pytest.mark.parametrize(
    "text",
    [
        *("version 10", "resnet10", "1.10", "10.0.1", "lr=0.10", "width=100", "width=10.5", "crop=10%", "2024-10-10"),
        *("10:10", "cuda:10", "host:10", "http://host:10/x", "size=10x10", "", "ten", "classes=", "of 10 kinds"),
    ],
)
def test_a_text_that_only_contains_the_same_digits_is_left_alone(text: str) -> None:
    model: Any = Net(line=text, config={"line": text})
    assert swapped(model).notes == ()
    assert model.line == model.config["line"] == text
