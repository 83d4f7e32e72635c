"""Heads of equal size may predict different things: they are swapped together only if the data flow supports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, find_heads, swap_head

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def perceptron(hidden: int, out: int = 4) -> nn.Module:
    layers = [layer for _ in range(hidden) for layer in (nn.Linear(16, 16), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(16, out))


class Detector(nn.Module):
    """Four classes and four coordinates, returned as `combine` says."""

    def __init__(self, combine: Callable[..., Any], cls: nn.Module | None = None, box: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.combine = nn.Linear(8, 16), combine
        self.cls, self.box = cls or nn.Linear(16, 4), box or nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.body(x))
        return self.combine(self, self.cls(x), self.box(x))


def as_dict(_: Any, logits: Tensor, boxes: Tensor) -> dict[str, Tensor]:
    return {"pred_logits": logits, "pred_boxes": boxes}


@pytest.mark.parametrize(
    "model",
    [
        Detector(as_dict),
        Detector(lambda _, logits, boxes: (logits, boxes)),
        Detector(lambda _, logits, boxes: {"boxes": [boxes.sigmoid()], "logits": logits.softmax(-1)}),
        Detector(as_dict, box=perceptron(1)),
        Detector(as_dict, box=perceptron(3)),
        Detector(as_dict, cls=perceptron(2), box=perceptron(2)),
        Detector(as_dict, cls=perceptron(6), box=perceptron(6)),
    ],
    ids=["dict", "tuple", "activations", "small perceptron", "perceptron", "two perceptrons", "two towers"],
)
def test_classes_and_coordinates_of_equal_number_are_ambiguous(model: Detector) -> None:
    heads = find_heads(model, X)
    assert [head.num_classes for head in heads] == [4, 4]
    with pytest.raises(HeadSwapError, match="both 4 wide") as caught:
        swap_head(model, 7, X)
    assert caught.value.reason == "ambiguous"
    assert all(head.path in str(caught.value) for head in heads)
    chosen = next(head.path for head in heads if head.path.startswith("cls"))
    assert [head.path for head in swap_head(model, 7, X, head=chosen).heads] == [chosen]


def test_a_refusal_names_the_two_heads_that_the_model_chooses_from() -> None:
    class Choosing(Detector):
        def __init__(self) -> None:
            super().__init__(lambda _, one, other: {"one": one.argmax(1), "other": other.argmax(1)})
            self.third = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Any:
            return {"third": self.third(torch.relu(self.body(x))), **super().forward(x)}

    with pytest.raises(HeadSwapError, match=r"'(cls' and 'box|box' and 'cls)' are both 4 wide") as caught:
        swap_head(Choosing(), 7, X)
    assert caught.value.reason == "ambiguous"


def test_layers_whose_sum_is_compared_for_each_pair_of_classes_are_selected_by_path() -> None:
    """Each sets both dimensions of the output with its one weight, so both dimensions count classes."""

    def pairs(_: Any, one: Tensor, other: Tensor) -> Tensor:
        scores = one + other
        return scores[:, :, None] - scores[:, None]

    model = Detector(pairs)
    with pytest.raises(HeadSwapError, match="several dimensions of one output depend on a head"):
        swap_head(model, 7, X)
    swap_head(model, 7, X, head=["cls", "box"])
    assert model(X).shape == (4, 7, 7)


def test_coordinates_from_a_tower_of_convolutions_are_ambiguous() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 8, 3)
            self.cls, self.box = self.tower(), self.tower()

        def tower(self) -> nn.Module:
            layers = [layer for _ in range(4) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
            return nn.Sequential(*layers, nn.Conv2d(8, 4, 1))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.body(x)
            return self.cls(x), self.box(x)

    with pytest.raises(HeadSwapError) as caught:
        swap_head(Dense(), 7, torch.randn(2, 3, 8, 8))
    assert caught.value.reason == "ambiguous"


@pytest.mark.parametrize(
    "combine",
    [
        lambda model, one, other: (one, other) if model.training else (one + other) / 2,
        lambda model, one, other: torch.stack([one, other]),
        lambda model, one, other: (one, other) if model.training else one,
        lambda model, one, other: {"mean": (one + other) / 2, "first": one, "second": other},
    ],
    ids=["averaged in eval mode", "stacked", "auxiliary in train mode", "all three"],
)
def test_heads_that_some_output_combines_are_swapped_together(combine: Callable[..., Any]) -> None:
    model = Detector(combine)
    assert {head.path for head in swap_head(model, 7, X).heads} == {"cls", "box"}


class DeepSupervision(nn.Module):
    """A second head reads the features before the last stage of the backbone."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.early, self.late = nn.Conv2d(3, 8, 3), stage
        self.out, self.aux = nn.Conv2d(8, 10, 1), nn.Conv2d(8, 10, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.early(x)
        return {"out": self.out(self.late(x)), "aux": self.aux(x)}


@pytest.mark.parametrize(
    "stage",
    [
        nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))),
        nn.Sequential(*(nn.Conv2d(8, 8, 1) for _ in range(8))),
    ],
    ids=["convolutions", "many layers"],
)
def test_the_heads_of_deep_supervision_are_swapped_together(stage: nn.Module) -> None:
    model = DeepSupervision(stage)
    assert {head.path for head in swap_head(model, 7, torch.randn(2, 3, 8, 8)).heads} == {"out", "aux"}


def test_several_values_for_each_class_do_not_compete_with_the_classes() -> None:
    class PerClass(Detector):
        def forward(self, x: Tensor) -> Any:
            scores, boxes = self.cls(self.body(x)), self.box(self.body(x))
            return scores, boxes.unflatten(1, (-1, 4))

    model = PerClass(as_dict, cls=nn.Linear(16, 7), box=nn.Linear(16, 28))
    swap_head(model, 3, X)
    assert [tuple(output.shape) for output in model(X)] == [(4, 3), (4, 3, 4)]


class BoxPredictor(nn.Module):
    """Scores, and four coordinates for each class in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_score, self.bbox_pred = nn.Linear(8, 7), nn.Linear(8, 28)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)


def test_boxes_for_each_class_keep_pace_with_the_scores() -> None:
    model = BoxPredictor()
    with pytest.raises(HeadSwapError, match=r"head=\['cls_score', 'bbox_pred'\] to swap both") as caught:
        swap_head(model, 3, X, head="cls_score")
    assert caught.value.reason == "ambiguous"
    old = model.bbox_pred.weight.detach().clone()
    swap = swap_head(model, 3, X, head=["cls_score", "bbox_pred"], class_map={0: 2})
    assert [tuple(output.shape) for output in model(X)] == [(4, 3), (4, 12)]
    assert torch.equal(model.bbox_pred.weight[:4], old[8:12])
    swap.restore()
    assert [tuple(output.shape) for output in model(X)] == [(4, 7), (4, 28)]
    swap_head(model, 3, X, head=["cls_score"])
    assert [tuple(output.shape) for output in model(X)] == [(4, 3), (4, 28)]
