"""Models that return results instead of logits, and empty outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, NoHeadError, find_heads, swap_head

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Detector(nn.Module):
    """Return boxes, scores and class indices with a score above `least`."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.body, self.logits, self.boxes = nn.Linear(8, 16), nn.Linear(16, 10), nn.Linear(16, 4)
        self.least = least

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.features(x)
        scores = self.logits(x).softmax(-1).flatten()
        kept = torch.where(scores > self.least)[0]
        boxes = torch.stack([self.boxes(x)[kept // 10, side] for side in range(4)], 1)
        return {"boxes": boxes, "scores": scores[kept], "labels": kept % 10}


@pytest.mark.parametrize("least", [0.0, 2.0], ids=["something is found", "nothing is found"])
def test_a_detector_is_refused_and_the_suggested_step_works(least: float) -> None:
    model = Detector(least)
    for call in (lambda: swap_head(model, 3, X), lambda: find_heads(model, X)):
        with pytest.raises(HeadSwapError, match=r"output\['labels'\].*call swap_head on the submodule") as caught:
            call()
        assert caught.value.reason == "decoded_output"
        assert not isinstance(caught.value, NoHeadError)
    swap_head(model.logits, 3, model.features(X))
    assert model.logits.out_features == 3


class TwoLevels(Detector):
    """Concatenate boxes of two layers before the selection."""

    def __init__(self, least: float) -> None:
        super().__init__(least)
        self.more = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        results = super().forward(x)
        x = self.features(x)
        rows = torch.where(self.logits(x).softmax(-1).flatten() > self.least)[0] // 10
        return {**results, "boxes": torch.cat([self.boxes(x), self.more(x)], 1)[rows]}


@pytest.mark.parametrize("least", [0.0, 2.0], ids=["something is found", "nothing is found"])
def test_boxes_of_two_layers_do_not_hide_that_results_are_selected(least: float) -> None:
    with pytest.raises(HeadSwapError, match=r"output\['labels'\].*call swap_head on the submodule") as caught:
        swap_head(TwoLevels(least), 3, X)
    assert caught.value.reason == "decoded_output"


class Masked(Detector):
    """Select with a mask."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        best, labels = self.logits(self.features(x)).max(-1)
        kept = best > self.least
        return {"scores": best[kept], "labels": labels[kept]}


def test_a_selection_with_a_mask_is_decoded_output() -> None:
    with pytest.raises(HeadSwapError) as caught:
        swap_head(Masked(-100.0), 3, X)
    assert caught.value.reason == "decoded_output"


def test_a_selection_inside_the_backbone_does_not_hide_the_head() -> None:
    class Sparse(Detector):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            x = self.features(x)
            return self.logits(x[x.sum(1) > -1.0])  # type: ignore[no-any-return]

    assert [head.path for head in find_heads(Sparse(0.0), X)] == ["logits"]


@pytest.mark.parametrize(
    "empty",
    [
        lambda x, y: x[:, :0],
        lambda x, y: y[:0],
        lambda x, y: y[:, :0].reshape(0, 2, 5),
        lambda x, y: torch.cat([y[:, :0], x[:, :0]], 1),
        lambda x, y: y.view(4, 2, 5)[:, :, :0].flatten(1),
    ],
    ids=["of the input", "of the batch", "in another shape", "put together", "flattened"],
)
def test_an_empty_output_does_not_affect_the_head(empty: object) -> None:
    class WithEmpty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.fc(self.body(x))
            return y, empty(x, y)  # type: ignore[operator]

    heads = find_heads(WithEmpty(), X)
    assert heads[0].path == "fc"
    assert heads[0].outputs[0] == "output[0]"


def test_a_model_that_returns_only_empty_tensors_has_no_head() -> None:
    class Empty(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :0]

    with pytest.raises(NoHeadError) as caught:
        find_heads(Empty(), X)
    assert caught.value.reason == "output_from_input"


class Heads(nn.Module):
    """Class scores (anchors, classes) and boxes for all feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.boxes = nn.Conv2d(8, 2 * 10, 1), nn.Conv2d(8, 2 * 4, 1)

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        return {"classes": self.all(self.classes, maps), "boxes": self.all(self.boxes, maps)}

    def all(self, layer: nn.Conv2d, maps: list[Tensor]) -> Tensor:
        rows = [layer(item).unflatten(1, (2, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3) for item in maps]
        return torch.cat(rows, 1)


class ClassScores(Heads):
    """Only the class scores."""

    def forward(self, maps: list[Tensor]) -> Tensor:  # type: ignore[override]
        return self.all(self.classes, maps)


class OneStage(nn.Module):
    """Two feature maps, and the three best boxes of each image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, 2)
        self.scores, self.head = ClassScores(), Heads()

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        maps = [first := self.first(images), self.second(first)]
        results = []
        for logits, boxes in zip(self.scores(maps), self.head(maps)["boxes"], strict=True):
            kept = (logits.sigmoid().flatten() > 0.0).nonzero()[:, 0]
            scores, best = logits.flatten()[kept].topk(3)
            anchors = kept[best].div(logits.shape[-1], rounding_mode="floor")
            results.append({"boxes": boxes[anchors], "scores": scores, "labels": kept[best] % logits.shape[-1]})
        return results


def test_the_submodule_that_a_refusal_names_can_be_swapped_with_the_inputs_of_a_hook() -> None:
    model, images = OneStage().eval(), torch.randn(2, 3, 16, 16)
    with pytest.raises(HeadSwapError, match=r"'scores' \(10 classes\)\. A forward pre-hook") as caught:
        swap_head(model, 4, images)
    assert caught.value.reason == "decoded_output"
    received: list[tuple[object, ...]] = []
    hook = model.scores.register_forward_pre_hook(lambda module, args: received.append(args))
    model(images)
    hook.remove()
    assert [head.path for head in swap_head(model.scores, 4, received[0], head=None).heads] == ["classes"]
    assert model.scores.classes.out_channels == 8
    assert max(int(result["labels"].max()) for result in model(images)) < 4


def test_a_predictor_of_scores_and_boxes_for_each_class_is_named_with_both_heads() -> None:
    class Predictor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cls_score, self.bbox_pred = nn.Linear(16, 7), nn.Linear(16, 28)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.cls_score(x), self.bbox_pred(x)

    class TwoStage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.predictor = nn.Linear(8, 16), Predictor()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            logits, boxes = self.predictor(torch.relu(self.body(x)))
            rows, classes = torch.where(logits.softmax(-1) > 0.0)
            return {"boxes": boxes.unflatten(1, (-1, 4))[rows, classes], "labels": classes}

    model = TwoStage()
    with pytest.raises(HeadSwapError, match=r"'predictor' \(7 classes, head=\['bbox_pred', 'cls_score'\]\)"):
        swap_head(model, 3, X)
    swap_head(model.predictor, 3, torch.relu(model.body(X)), head=["bbox_pred", "cls_score"])
    assert model(X)["labels"].max() == 2


class MaskedColumns(Detector):
    """Select columns with a mask."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        best, labels = self.logits(self.features(x)).max(-1)
        return torch.stack([best, labels.float()])[:, best > self.least]


def test_a_selection_of_columns_with_a_mask_is_decoded_output() -> None:
    with pytest.raises(HeadSwapError) as caught:
        swap_head(MaskedColumns(-100.0), 3, X)
    assert caught.value.reason == "decoded_output"


def test_a_choice_from_padded_classes_fails_the_verification() -> None:
    class Padded(Detector):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            logits = self.logits(self.features(x))
            return nn.functional.pad(logits, (0, 10 - logits.shape[1])).argmax(1)

    model = Padded(0.0)
    with pytest.raises(HeadSwapError) as caught:
        swap_head(model, 3, X)
    assert caught.value.reason == "verification_failed"
    assert model.logits.out_features == 10
