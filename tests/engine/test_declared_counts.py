"""A model that declares a class count which no head has is refused."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, NoHeadError, find_heads, swap_head
from tests.usable import usable_transformers

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Return the result of `last`, a layer on 16 features. Other layers and attributes are added by name."""

    def __init__(self, last: nn.Module, **attributes: Any) -> None:
        super().__init__()
        self.body, self.last = nn.Linear(8, 16), last
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.body(x)))  # type: ignore[no-any-return]


def neck(**attributes: Any) -> Net:
    return Net(nn.Linear(16, 32), classifier=nn.Linear(32, 100), **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"num_classes": 100},
        {"num_labels": 100},
        {"config": types.SimpleNamespace(num_labels=100)},
        {"num_classes": 100, "width": 32},
        {"num_classes": 100, "prototypes": nn.Parameter(torch.randn(100, 32))},
    ],
    ids=["num_classes", "num_labels", "config", "its width is an attribute", "prototypes of a loss"],
)
def test_features_in_front_of_an_unused_head_are_refused(attributes: dict[str, Any]) -> None:
    model = neck(**attributes)
    for call in (lambda: swap_head(model, 5, X), lambda: find_heads(model, X)):
        with pytest.raises(HeadSwapError, match=r"last \(32\).*does not use .*classifier.weight.*head=PATH") as caught:
            call()
        assert caught.value.reason == "count_disagrees"
        assert not isinstance(caught.value, NoHeadError)
    assert model(X).shape == (4, 32)


def test_the_layer_that_was_found_can_be_selected_all_the_same() -> None:
    model = neck(num_classes=100)
    assert [head.path for head in swap_head(model, 5, X, head="last").heads] == ["last"]
    assert model(X).shape == (4, 5)


def test_a_corrected_count_is_accepted() -> None:
    model = Net(nn.Linear(16, 7), num_classes=1000)  # such as a model whose classifier was replaced by hand
    with pytest.raises(HeadSwapError, match=r"last \(7\)\. No tensor of the model has a dimension of 1000") as caught:
        swap_head(model, 5, X)
    assert caught.value.reason == "count_disagrees"
    model.num_classes = 7  # type: ignore[assignment]
    swap_head(model, 5, X)
    assert model(X).shape == (4, 5)
    assert vars(model)["num_classes"] == 5


class Slot(nn.Module):
    """Return features through an Identity. A layer with 100 classes is unused."""

    num_classes = 100

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body, self.mix, self.slot = nn.Linear(8, 16), nn.Linear(16, 16), nn.Identity()
        self.classifier = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.slot(x + self.mix(x))  # type: ignore[no-any-return]


def test_a_slot_is_not_filled_while_the_declared_head_is_unused() -> None:
    with pytest.raises(HeadSwapError, match=r"slot \(16\).*does not use classifier\.weight") as caught:
        swap_head(Slot(100), 5, X)
    assert caught.value.reason == "count_disagrees"
    assert [head.path for head in swap_head(Slot(7), 5, X).heads] == ["slot"]


def test_another_count_that_the_configuration_states_is_accepted() -> None:
    config = types.SimpleNamespace(num_labels=2, vocab_size=33, hidden_size=16)
    model = Net(nn.Linear(16, 33), config=config)
    assert find_heads(model, X)[0].num_classes == 33


def test_a_head_with_the_declared_count_is_enough() -> None:
    class TwoTasks(Net):
        colour: nn.Module

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            x = torch.relu(self.body(x))
            return self.last(x), self.colour(x)

    model = TwoTasks(nn.Linear(16, 7), colour=nn.Linear(16, 3), num_classes=3)
    assert [head.path for head in swap_head(model, 5, X).heads] == ["colour"]


@pytest.mark.parametrize("kind", ["Bert", "ViT"])
def test_the_pooler_of_a_transformers_backbone_is_refused(kind: str) -> None:
    transformers = usable_transformers()
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "Bert":
        model = transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=100))
        inputs: Any = {"input_ids": torch.ones(2, 6, dtype=torch.long)}
    else:
        model = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32))
        inputs = torch.zeros(2, 3, 32, 32)
    with pytest.raises(HeadSwapError, match=r"declares 2 classes.*pooler.dense \(32\)") as caught:
        swap_head(model, 5, inputs)
    assert caught.value.reason == "count_disagrees"
