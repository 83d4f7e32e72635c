"""The names of classes follow a swap wherever a model keeps them, or a note names them."""

from __future__ import annotations

import copy
import types
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, HeadSwapWarning, Swap, swap_head
from tests.usable import usable_transformers

X = torch.randn(4, 8)
OLD = ["ant", "bee", "cat", "dog", "eel", "fox"]
NEW = ["a", "b", "c"]


class Net(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 6)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.body(x).relu())
        return out


def swapped(model: nn.Module, **options: Any) -> Swap:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadSwapWarning)
        return swap_head(model, 3, X, **options)


@pytest.mark.parametrize(
    ("value", "after"),
    [
        (lambda: dict(enumerate(OLD)), dict(enumerate(NEW))),
        (lambda: {str(index): name for index, name in enumerate(OLD)}, {"0": "a", "1": "b", "2": "c"}),
        (lambda: {name: index for index, name in enumerate(OLD)}, {"a": 0, "b": 1, "c": 2}),
        (lambda: list(OLD), NEW),
        (lambda: tuple(OLD), tuple(NEW)),
    ],
    ids=["by index", "by text", "by name", "list", "tuple"],
)
@pytest.mark.parametrize("nested", [False, True])
def test_names_that_the_user_gives_are_stored(value: Any, after: Any, nested: bool) -> None:
    model: Any = Net(names=value()) if not nested else Net(config=types.SimpleNamespace(data={"names": value()}))
    swap = swapped(model, class_names=NEW)
    assert (model.config.data["names"] if nested else model.names) == after
    assert swap.notes == ()
    swap.restore()
    assert (model.config.data["names"] if nested else model.names) == value()


def test_kept_classes_keep_their_names() -> None:
    model: Any = Net(names=dict(enumerate(OLD)), index={name: index for index, name in enumerate(OLD)})
    swapped(model, class_map=["dog", None, 0])
    assert model.names == {0: "dog", 1: "LABEL_1", 2: "ant"}
    assert model.index == {"dog": 0, "LABEL_1": 1, "ant": 2}


def test_generated_names_are_generated_again() -> None:
    model: Any = Net(names={index: f"LABEL_{index}" for index in range(6)})
    swapped(model, class_map=[5, 4, 3])
    assert model.names == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


def test_classes_can_be_kept_by_names_in_a_list() -> None:
    model = Net(names=list(OLD))
    row = model.fc.weight[3].clone()
    swapped(model, class_map=["dog", None, None])
    assert torch.equal(model.fc.weight[0], row)


def test_a_list_of_names_is_named_if_no_new_names_are_known() -> None:
    model: Any = Net(names=list(OLD))
    (note,) = swapped(model).notes
    assert note.startswith("names: one name for each old class")
    assert model.names == OLD


@pytest.mark.parametrize("kind", [set, frozenset])
@pytest.mark.parametrize("nested", [False, True])
def test_a_set_of_names_gets_the_given_names(kind: Any, nested: bool) -> None:
    model: Any = Net(names=kind(OLD)) if not nested else Net(config=types.SimpleNamespace(data={"names": kind(OLD)}))
    swap = swapped(model, class_names=NEW)
    after = model.config.data["names"] if nested else model.names
    assert type(after) is kind
    assert after == set(NEW)
    assert swap.notes == ()


def test_a_set_of_names_follows_a_mapping_with_the_same_names() -> None:
    model: Any = Net(id2label=dict(enumerate(OLD)), known=set(OLD), others={"heads", "tails"})
    swap = swapped(model, class_map=["dog", None, "ant"])
    assert model.known == set(model.id2label.values()) == {"dog", "LABEL_1", "ant"}
    assert model.others == {"heads", "tails"}
    assert swap.notes == ()


def test_a_set_of_names_is_named_if_no_new_names_are_known() -> None:
    model: Any = Net(names=set(OLD))
    (note,) = swapped(model).notes
    assert note.startswith("names: one name for each old class")
    assert model.names == set(OLD)


def test_a_set_does_not_give_an_order_to_classes() -> None:
    with pytest.raises(HeadSwapError, match="class_map"):
        swapped(Net(names=set(OLD)), class_map=["dog", None, "ant"])


def test_sets_of_another_size_or_of_something_else_are_left_alone() -> None:
    model = Net(
        names=set(OLD[:5]), kinds={int, str, float, bool, list, dict}, steps={0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5}
    )
    assert swapped(model).notes == ()


def test_of_two_lists_none_is_changed() -> None:
    model: Any = Net(names=list(OLD), layers=[f"layer{index}" for index in range(6)])
    (note,) = swapped(model, class_names=NEW).notes
    assert note.startswith("names, layers: one name for each old class")
    assert model.names == OLD


class Pyramid(nn.Module):
    """A model with two classes and two stages, that lists the names of its own parts."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.low, self.high = nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.Sequential(nn.Linear(8, 8), nn.GELU())
        self.fc = nn.Linear(8, 2)
        self.id2label = {0: "cat", 1: "dog"}
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.high(self.low(x)))
        return out


@pytest.mark.parametrize("given", [NEW, None])
@pytest.mark.parametrize(
    "value",
    [
        ["low", "high"],
        {"Linear", "GELU"},
        ("low.0", "high.0"),
        ["fc.weight", "fc.bias"],
        frozenset({"Sequential", "low.1"}),
    ],
    ids=lambda value: type(value).__name__,  # the order of a set differs between processes
)
def test_a_list_of_the_models_own_parts_does_not_name_classes(value: Any, given: Any) -> None:
    model: Any = Pyramid(parts=value)
    swap = swapped(model, class_names=given)
    assert model.parts == value
    assert list(model.id2label.values()) == (given or ["LABEL_0", "LABEL_1", "LABEL_2"])
    assert swap.notes == ()


@pytest.mark.parametrize(
    "value", [["here", "there"], {"pixel_values", "labels"}, ("GELU", "Conv2d")], ids=lambda value: type(value).__name__
)
def test_given_names_go_to_the_mapping_and_not_to_a_list_of_other_names(value: Any) -> None:
    model: Any = Pyramid(other=value)
    swap = swapped(model, class_names=NEW)
    assert model.other == value
    assert list(model.id2label.values()) == NEW
    assert "other: one name for each old class, not changed" in swap.notes[0]


def test_class_names_leave_the_names_of_module_classes_in_a_library_alone() -> None:
    transformers = usable_transformers()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=50, **sizes))
    before = copy.deepcopy(model._no_split_modules)
    swap = swap_head(model, 3, class_names=NEW)
    assert model._no_split_modules == before
    assert model.config.id2label == dict(enumerate(NEW))
    assert swap.notes == ()


def test_names_that_forward_reads_stay_if_it_needs_the_old_ones() -> None:
    class Reads(Net):
        parts: dict[str, int]

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (20 + self.parts["fox"])

    model = Reads(parts={name: index for index, name in enumerate(OLD)})
    (note,) = swapped(model, class_names=NEW).notes
    assert note.startswith("parts: ")
    assert list(model.parts) == OLD


def test_given_names_that_have_no_place_are_reported() -> None:
    (note,) = swapped(Net(), class_names=NEW).notes
    assert note == "class_names has no effect: the model stores no names of classes"


def test_a_copy_of_the_names_in_a_module_of_the_backbone_follows() -> None:
    class Encoder(nn.Module):
        def __init__(self, config: types.SimpleNamespace) -> None:
            super().__init__()
            self.config, self.names = copy.deepcopy(config), dict(config.id2label)
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x).relu()
            return out

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = types.SimpleNamespace(id2label=dict(enumerate(OLD)), colours={0: "red"})
            self.encoder, self.fc = Encoder(self.config), nn.Linear(8, len(OLD))
            self.encoder.config.other = {index: f"part {index}" for index in range(len(OLD))}

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.encoder(x))
            return out

    model = Model()
    other = dict(model.encoder.config.other)
    swap = swapped(model, class_names=NEW)
    expected = dict(enumerate(NEW))
    assert model.config.id2label == model.encoder.config.id2label == model.encoder.names == expected
    assert model.encoder.config.other == other
    swap.restore()
    assert model.encoder.names == model.encoder.config.id2label == dict(enumerate(OLD))


class IdlePart(nn.Module):
    """A module that no forward pass runs. It keeps names of classes of its own, as the parts of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.config = label_config()


def label_config() -> types.SimpleNamespace:
    names = [f"LABEL_{index}" for index in range(6)]
    by_name = {name: index for index, name in enumerate(names)}
    return types.SimpleNamespace(id2label=dict(enumerate(names)), label2id=by_name)


@pytest.mark.parametrize("count", [7, 8, 20])
def test_an_index_among_more_new_names_is_not_taken_for_the_old_class_count(count: int) -> None:
    model = Net(config=label_config(), part=IdlePart())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swap_head(model, count, X)
    assert len(model.part.config.label2id) == count  # type: ignore[union-attr, arg-type]
