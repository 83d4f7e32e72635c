"""A mapping gives several heads class counts of their own, in one swap, and several swaps of a model live together."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from pytest_headswap import HeadSwapError, HeadSwapWarning, freeze_backbone, swap_head
from tests.usable import usable_transformers

X = torch.zeros(2, 8)


class Two(nn.Module):
    """Two heads with class counts of their own, and numbers and names that follow them."""

    def __init__(self, kind: int = 10, colour: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.kind = nn.Linear(16, kind)
        self.colour = nn.Linear(16, colour)
        self.num_classes = kind

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(x).relu()
        return {"kind": self.kind(features), "colour": self.colour(features)}


class Branch(nn.Module):
    """A head in a module of its own, with its count and the names of its classes."""

    def __init__(self, classes: int, names: list[str]) -> None:
        super().__init__()
        self.num_classes = classes
        self.id2label = dict(enumerate(names))
        self.proj = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x)  # type: ignore[no-any-return]


class Branches(nn.Module):
    """Two heads that have the same class count before the swap."""

    def __init__(self, *, root_count: bool = False) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.kind = Branch(3, ["cat", "dog", "cow"])
        self.colour = Branch(3, ["red", "green", "blue"])
        if root_count:
            self.num_classes = 3

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.body(x).relu()
        return self.kind(features), self.colour(features)


class Convolutions(nn.Module):
    """A dense head and one after a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.mask = nn.Conv2d(8, 4, 1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(x).relu()
        return {"mask": self.mask(features), "label": self.fc(features.mean((2, 3)))}


class Recurrent(nn.Module):
    """One head for each token, and one for the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.layer = nn.GRU(8, 16, batch_first=True)
        self.tags = nn.utils.parametrizations.weight_norm(nn.Linear(16, 6))
        self.intent = nn.Linear(16, 9)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states, last = self.layer(self.table(tokens))
        return self.tags(states), self.intent(last[0])


CASES: dict[str, tuple[Callable[[], nn.Module], torch.Tensor, dict[str, int], tuple[tuple[int, ...], ...]]] = {
    "linear": (Two, X, {"kind": 5, "colour": 4}, ((2, 5), (2, 4))),
    "swapped order": (Two, X, {"colour": 4, "kind": 5}, ((2, 5), (2, 4))),
    "each other's count": (Two, X, {"kind": 3, "colour": 10}, ((2, 3), (2, 10))),
    "one redrawn": (Two, X, {"kind": 10, "colour": 4}, ((2, 10), (2, 4))),
    "same new count": (Two, X, {"kind": 5, "colour": 5}, ((2, 5), (2, 5))),
    "only one": (Two, X, {"colour": 4}, ((2, 10), (2, 4))),
    "by tensor": (Two, X, {"kind.weight": 5, "colour.bias": 4}, ((2, 5), (2, 4))),
    "same old count": (Branches, X, {"kind.proj": 5, "colour.proj": 4}, ((2, 5), (2, 4))),
    "wrapped": (lambda: nn.DataParallel(Two()), X, {"module.kind": 5, "module.colour": 4}, ((2, 5), (2, 4))),
    "dense": (Convolutions, torch.zeros(2, 3, 6, 6), {"mask": 7, "fc": 2}, ((2, 7, 6, 6), (2, 2))),
    "recurrent": (
        Recurrent,
        torch.zeros(2, 5, dtype=torch.long),
        {"tags.parametrizations.weight.original1": 4, "intent": 3},
        ((2, 5, 4), (2, 3)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_head_gets_its_class_count_and_all_of_them_are_restored(case: str) -> None:
    build, x, counts, shapes = CASES[case]
    model = build()
    before = {name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    swap = swap_head(model, counts, x)
    assert swap.num_classes == counts
    assert len(swap.heads) == len(swap.old_heads) == len(counts)
    assert _shapes(model, x) == shapes
    assert {id(p) for p in swap.parameters()} <= {id(p) for p in model.parameters()}
    assert len(list(swap.parameters())) == sum(len(head.tensors) for head in swap.heads)
    swap.load_state_dict(swap.state_dict())
    swap.restore()
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is value and torch.equal(value, copy) for name, (value, copy) in before.items())
    swap.reapply()
    assert _shapes(model, x) == shapes


def _shapes(model: nn.Module, x: torch.Tensor) -> tuple[tuple[int, ...], ...]:
    inner = model.module if isinstance(model, nn.DataParallel) else model
    outputs = inner(x)
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return tuple(tuple(value.shape) for value in values)


def test_the_repr_names_each_count() -> None:
    assert repr(swap_head(Two(), {"kind": 5, "colour": 4}, X)) == "Swap(Two: kind 10 -> 5, colour 3 -> 4)"


def test_stored_counts_and_names_follow_their_own_head() -> None:
    model = Branches()
    names = {"kind.proj": ["a", "b"], "colour.proj": ["w", "x", "y", "z"]}
    swap = swap_head(model, {"kind.proj": 2, "colour.proj": 4}, X, class_names=names)
    assert (model.kind.num_classes, model.colour.num_classes) == (2, 4)
    assert (model.kind.proj.out_features, model.colour.proj.out_features) == (2, 4)
    assert list(model.kind.id2label.values()) == ["a", "b"]
    assert list(model.colour.id2label.values()) == ["w", "x", "y", "z"]
    swap.restore()
    assert (model.kind.num_classes, model.colour.num_classes) == (3, 3)
    assert list(model.colour.id2label.values()) == ["red", "green", "blue"]


def test_a_count_that_may_belong_to_either_head_is_named_and_not_changed() -> None:
    model = Branches(root_count=True)
    with pytest.warns(HeadSwapWarning, match="num_classes = 3: not changed, because several heads"):
        swap_head(model, {"kind.proj": 5, "colour.proj": 4}, X)
    assert (model.num_classes, model.kind.num_classes, model.colour.num_classes) == (3, 5, 4)


def test_a_count_that_the_model_needs_follows_the_head_with_which_it_runs() -> None:
    class Reshapes(Branches):
        def __init__(self) -> None:
            super().__init__()
            self.width = 3

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            kind, colour = super().forward(x)
            return kind, colour.reshape(len(x), self.width)

    model = Reshapes()
    swap_head(model, {"kind.proj": 5, "colour.proj": 4}, X)
    assert model.width == 4


def test_class_map_is_a_mapping_of_paths_too() -> None:
    model = Branches()
    kind, colour = model.kind.proj.weight.detach().clone(), model.colour.proj.weight.detach().clone()
    class_map: Mapping[str, Any] = {"kind.proj": ["cow", None], "colour.proj": {3: "red"}}
    swap_head(model, {"kind.proj": 2, "colour.proj": 4}, X, class_map=class_map)
    assert torch.equal(model.kind.proj.weight[0], kind[2])
    assert torch.equal(model.colour.proj.weight[3], colour[0])
    assert model.kind.id2label[0] == "cow"
    assert model.colour.id2label[3] == "red"


def test_new_heads_may_differ_or_come_from_one_function() -> None:
    model = Two()
    swap_head(model, {"kind": 5, "colour": 4}, X, new_head={"colour": nn.Sequential(nn.Linear(16, 4))})
    assert isinstance(model.colour, nn.Sequential)
    assert isinstance(model.kind, nn.Linear)
    widths: list[tuple[int, int]] = []

    def build(width: int, classes: int) -> nn.Module:
        widths.append((width, classes))
        return nn.Linear(width, classes)

    swap_head(Two(), {"kind": 5, "colour": 4}, X, new_head=build)
    assert widths == [(16, 5), (16, 4)]


def test_any_integer_type_is_a_count() -> None:
    counts: dict[str, Any] = {"kind": np.int64(5), "colour": torch.tensor(4)}
    swap = swap_head(Two(), counts, X)
    assert swap.num_classes == {"kind": 5, "colour": 4}
    assert all(type(count) is int for count in swap.num_classes.values())


@pytest.mark.parametrize("count", [np.int64(5), np.uint8(5), torch.tensor(5), torch.tensor(5, dtype=torch.uint8)])
def test_a_single_count_may_have_any_integer_type(count: Any) -> None:
    swap = swap_head(nn.Sequential(nn.Linear(8, 10)), count, X)
    assert (swap.num_classes, type(swap.num_classes)) == (5, int)


BAD: dict[str, tuple[Any, dict[str, Any], str, str]] = {
    "empty": ({}, {}, "bad_argument", "num_classes must map the path of each head"),
    "zero": ({"kind": 5, "colour": 0}, {}, "bad_num_classes", "'colour': a mapping gives heads class counts of at le"),
    "negative": ({"kind": -1}, {}, "bad_num_classes", "'kind': num_classes must be a whole number"),
    "bool": ({"kind": True}, {}, "bad_num_classes", "'kind': num_classes must be a whole number"),
    "float": ({"kind": 5.0}, {}, "bad_num_classes", "'kind': num_classes must be a whole number"),
    "vector": ({"kind": torch.tensor([5])}, {}, "bad_num_classes", "'kind': num_classes must be"),
    "a list": ([5, 4], {}, "bad_num_classes", "num_classes must be"),
    "keys": ({0: 5}, {}, "bad_argument", "num_classes must map the path of each head"),
    "unknown": ({"kind": 5, "color": 4}, {}, "unknown_head", "did you mean 'colour'"),
    "one head twice": ({"kind": 5, "kind.weight": 4}, {}, "bad_argument", "'kind' and 'kind.weight' are names of the"),
    "head": ({"kind": 5}, {"head": "kind"}, "bad_argument", "do not pass head"),
    "a flat class_map": ({"kind": 5}, {"class_map": {0: 1}}, "bad_argument", "class_map must be one too"),
    "a list of names": ({"kind": 2}, {"class_names": ["a", "b"]}, "bad_argument", "class_names must be one too"),
    "names of another": (
        {"kind": 2},
        {"class_names": {"colour": ["a", "b"]}},
        "bad_argument",
        "class_names has a value for 'colour', which num_classes does not name",
    ),
    "too few names": ({"kind": 2}, {"class_names": {"kind": ["a"]}}, "bad_argument", "'kind': class_names must"),
    "an old class": ({"colour": 2}, {"class_map": {"colour": [7]}}, "bad_argument", "7 is not a valid old class"),
    "one module": ({"kind": 5, "colour": 4}, {"new_head": nn.Linear(16, 5)}, "bad_argument", "cannot replace 2 heads"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_and_nothing_is_changed(case: str) -> None:
    counts, arguments, reason, message = BAD[case]
    model = Two()
    before = dict(model.named_parameters())
    with pytest.raises(HeadSwapError, match=message) as caught:
        swap_head(model, counts, X, **arguments)
    assert caught.value.reason == reason
    assert all(value is before[name] for name, value in model.named_parameters())
    assert model.num_classes == 10


def test_if_the_second_head_cannot_be_swapped_the_first_is_as_before() -> None:
    model = Two()
    before = dict(model.named_parameters())
    new_head = {"kind": nn.Linear(16, 5), "colour": nn.Linear(15, 4)}
    with pytest.raises(HeadSwapError, match="new_head must take 16 features and return 5 or 4 values"):
        swap_head(model, {"kind": 5, "colour": 4}, X, new_head=new_head)
    assert all(value is before[name] for name, value in model.named_parameters())
    assert (model.num_classes, model.kind.out_features) == (10, 10)


def test_heads_of_a_mapping_stay_trainable_when_the_backbone_is_frozen() -> None:
    swap = swap_head(Two(), {"kind": 5, "colour": 4}, X)
    freeze_backbone(swap)
    trainable = {name for name, value in swap.model.named_parameters() if value.requires_grad}
    assert trainable == {"kind.weight", "kind.bias", "colour.weight", "colour.bias"}


def test_names_that_may_belong_to_either_head_are_named_and_not_changed() -> None:
    model = Branches()
    model.__dict__["id2label"] = {0: "a", 1: "b", 2: "c"}
    with pytest.warns(HeadSwapWarning, match="id2label: not changed, because several heads"):
        swap_head(model, {"kind.proj": 5, "colour.proj": 4}, X)
    assert model.__dict__["id2label"] == {0: "a", 1: "b", 2: "c"}
    model = Branches()
    model.__dict__["id2label"] = {0: "a", 1: "b", 2: "c"}
    swap_head(model, {"kind.proj": 2, "colour.proj": 2}, X, class_map={"kind.proj": [2], "colour.proj": [1]})
    assert list(model.__dict__["id2label"]) == [0, 1]


def test_heads_whose_outputs_are_averaged_need_one_count() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", depth=1, img_size=32, num_classes=10)
    before = dict(model.named_parameters())
    with pytest.raises(HeadSwapError) as caught:
        swap_head(model, {"head": 5, "head_dist": 4})
    assert caught.value.reason == "verification_failed"
    assert all(value is before[name] for name, value in model.named_parameters())
    swap_head(model, {"head": 5, "head_dist": 5})
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert model.num_classes == 5


def test_a_tied_head_and_another_one_leave_the_embedding_as_it_was() -> None:
    transformers = usable_transformers()
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=30
    )
    model = transformers.BertForPreTraining(config)
    inputs = {"input_ids": torch.ones(2, 6, dtype=torch.long)}
    heads = {"cls.predictions.decoder": 12, "cls.seq_relationship": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadSwapWarning)
        swap = swap_head(model, heads, inputs)
    outputs = model.eval()(**inputs)
    assert outputs.prediction_logits.shape == (2, 6, 12)
    assert outputs.seq_relationship_logits.shape == (2, 3)
    assert model.bert.embeddings.word_embeddings.weight.shape == (30, 16)
    swap.restore()
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


@pytest.mark.parametrize(
    ("counts", "widths"),
    [
        ({"scores": 5, "boxes": 5}, (5, 20)),  # four coordinates for each class, as with head=["scores", "boxes"]
        ({"scores": 5, "boxes": 20}, (5, 20)),
        ({"scores": 5, "boxes": 7}, (5, 7)),
        ({"scores": 5}, (5, 40)),
        ({"boxes": 7}, (10, 7)),
    ],
)
def test_coordinates_of_boxes_follow_their_classes_if_both_get_the_same_count(
    counts: dict[str, int], widths: tuple[int, int]
) -> None:
    class Boxes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores, self.boxes = nn.Linear(8, 10), nn.Linear(8, 40)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.scores(x), self.boxes(x)

    model = Boxes()
    swap_head(model, counts, X)
    assert _shapes(model, X) == tuple((2, width) for width in widths)


def test_activations_of_all_heads_are_dropped() -> None:
    class Activated(Two):
        def __init__(self) -> None:
            super().__init__()
            self.softmax, self.sigmoid = nn.Softmax(-1), nn.Sigmoid()

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = super().forward(x)
            return {"kind": self.softmax(outputs["kind"]), "colour": self.sigmoid(outputs["colour"])}

    model = Activated()
    swap = swap_head(model, {"kind": 5, "colour": 4}, X, activation="drop")
    assert isinstance(model.softmax, nn.Identity)
    assert isinstance(model.sigmoid, nn.Identity)
    swap.restore()
    assert isinstance(model.softmax, nn.Softmax)


def test_after_restore_only_the_other_head_stays_trainable() -> None:
    model = Two()
    first, second = (swap_head(model, count, X, head=head) for head, count in (("kind", 5), ("colour", 4)))
    first.restore()
    for given in (second, model):
        frozen = freeze_backbone(given, X)
        trainable = {name for name, value in model.named_parameters() if value.requires_grad}
        assert trainable == {"colour.weight", "colour.bias"}
        frozen.unfreeze()
    first.reapply()
    freeze_backbone(model, X)
    assert all(value.requires_grad for value in (*first.parameters(), *second.parameters()))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_swaps_of_different_heads_are_restored_in_any_order(order: tuple[int, ...]) -> None:
    class Three(Two):
        def __init__(self) -> None:
            super().__init__()
            self.size = nn.Linear(16, 7)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {**super().forward(x), "size": self.size(self.body(x).relu())}

    model = Three()
    before = dict(model.named_parameters())
    counts = {"kind": 3, "colour": 4, "size": 10}
    swaps = [swap_head(model, count, X, head=head) for head, count in counts.items()]
    freeze_backbone(swaps[0]).unfreeze()
    for done, index in enumerate(order):
        swaps[index].restore()
        left = {name for i, name in enumerate(counts) if i not in order[: done + 1]}
        changed = {name.partition(".")[0] for name, value in model.named_parameters() if value is not before[name]}
        assert changed == left
    assert model.num_classes == 10
    for index in order:
        swaps[index].reapply()
    assert _shapes(model, X) == ((2, 3), (2, 4), (2, 10))
    for index in order:
        swaps[index].restore()
    assert all(value is before[name] for name, value in model.named_parameters())
    assert model.num_classes == 10


def test_a_number_that_two_swaps_changed_has_its_first_value_at_the_end() -> None:
    model = Two()
    first = swap_head(model, 3, X, head="kind")
    assert model.num_classes == 3
    model.colour = nn.Linear(16, 7)
    second = swap_head(model, 6, X, head="kind")
    with pytest.raises(HeadSwapError, match="swapped again by a later swap: restore that one first") as caught:
        first.restore()
    assert caught.value.reason == "bad_argument"
    assert (model.num_classes, model.kind.out_features) == (6, 6)
    second.restore()
    assert model.num_classes == 3
    first.restore()
    assert (model.num_classes, model.kind.out_features) == (10, 10)


def test_a_count_shared_by_two_swaps_is_undone_in_either_order() -> None:
    class Shared(Two):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = super().forward(x)
            return {"kind": outputs["kind"], "colour": outputs["colour"]}

    model = Shared(kind=10, colour=5)
    first = swap_head(model, 4, X, head="kind")
    model.num_classes = 5  # counts the colours from now on
    second = swap_head(model, 6, X, head="colour")
    assert model.num_classes == 6
    first.restore()
    assert model.num_classes == 6
    first.reapply()
    first.restore()
    second.restore()
    assert model.num_classes == 10


def test_remembered_swaps_do_not_keep_a_model_alive() -> None:
    model = Two()
    swaps = [swap_head(model, 5, X, head="kind"), swap_head(model, 4, X, head="colour")]
    reference = weakref.ref(model)
    del model, swaps
    gc.collect()
    assert reference() is None


class Counted(nn.Module):
    """Heads whose class counts the model keeps under names of its own."""

    def __init__(self, kind: int, colour: int, kept: Callable[[int, int], Any]) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.kind, self.colour = nn.Linear(16, kind), nn.Linear(16, colour)
        self.kept = kept(kind, colour)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(x).relu()
        return {"kind": self.kind(features), "colour": self.colour(features)}


@pytest.mark.parametrize("kept", [lambda *n: {"kinds": n[0], "colours": n[1]}, SimpleNamespace, lambda *n: [*n]])
@pytest.mark.parametrize("counts", [{"kind": 3, "colour": 10}, {"kind": 3, "colour": 6}, {"kind": 6, "colour": 10}])
def test_an_old_count_that_equals_the_new_count_of_the_other_head_is_named(kept: Any, counts: dict[str, int]) -> None:
    def keep(kind: int, colour: int) -> Any:
        return kept(kinds=kind, colours=colour) if kept is SimpleNamespace else kept(kind, colour)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        swap_head(Counted(10, 3, keep), counts, X)
    text = " ".join(str(item.message) for item in caught)
    assert "= 10" in text, text
    assert "= 3" in text, text
