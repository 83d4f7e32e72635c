"""A dimension that is whole does not count classes if the same weight gives another one that is cut into parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, find_heads, swap_head

X = torch.randn(2, 8)


class Detector(nn.Module):
    """One layer gives 3 anchors with 4 coordinates and `classes` scores each; `end` cuts them apart."""

    def __init__(self, end: Callable[[Tensor], Any], classes: int = 10) -> None:
        super().__init__()
        self.body, self.fc, self.end = nn.Linear(8, 16), nn.Linear(16, 3 * (4 + classes)), end

    def forward(self, x: Tensor) -> Any:
        return self.end(self.fc(self.body(x).relu()))


def unbound(y: Tensor) -> tuple[Tensor, ...]:
    return y.view(len(y), -1, 14).unbind(-1)


def written(y: Tensor) -> Tensor:
    scores = y.new_zeros(*y.shape[:2], 10)
    for index in range(10):
        scores[..., index] = y[..., 4 + index]
    return scores


CUT: dict[str, Callable[[Tensor], Any]] = {
    "slices": lambda y: (y.view(len(y), -1, 14)[..., :4], y.view(len(y), -1, 14)[..., 4:]),
    "only the scores": lambda y: y.view(len(y), -1, 14)[..., 4:].sigmoid(),
    "split": lambda y: torch.split(y.view(len(y), -1, 14), [4, 10], -1),
    "anchors last": lambda y: y.view(len(y), 14, -1)[:, 4:],
    "narrow": lambda y: {"scores": y.reshape(len(y), -1, 14).narrow(2, 4, 10)},
    "stacked": lambda y: [torch.stack(part, -1) for part in (unbound(y)[:4], unbound(y)[4:])],
    "selected": lambda y: torch.stack([y.view(len(y), -1, 14)[..., index] for index in range(4, 14)], -1),
    "corners": lambda y: torch.stack([unbound(y)[0] - unbound(y)[2].exp() / 2, unbound(y)[1] * 8], 1),
    "written": lambda y: written(y.view(len(y), -1, 14)),
    "a score alone": lambda y: (torch.stack(unbound(y)[:4], -1), unbound(y)[4].sigmoid()),
    "joined again": lambda y: torch.cat([y.view(len(y), -1, 14)[..., :4].exp(), y.view(len(y), -1, 14)[..., 4:]], -1),
}


@pytest.mark.parametrize("end", CUT.values(), ids=CUT)
def test_anchors_are_not_taken_for_classes(end: Callable[[Tensor], Any]) -> None:
    model = Detector(end)
    before = model(X)
    with pytest.raises(HeadSwapError, match=r"dimension .* and it is unclear which counts classes") as caught:
        swap_head(model, 5, X)
    assert caught.value.reason == "composite"
    torch.testing.assert_close(model(X), before)


def test_a_declared_count_decides() -> None:
    model: Any = Detector(lambda y: y.view(len(y), -1, 14)[..., 4:])
    model.num_classes = 3
    (head,) = find_heads(model, X)
    assert (head.num_classes, head.class_dim) == (3, 1)


def test_another_head_with_as_many_classes_decides() -> None:
    class Boxes(Detector):
        def __init__(self) -> None:
            super().__init__(lambda y: y)
            self.scores = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Any:
            features = self.body(x).relu()
            boxes = self.fc(features).view(len(x), -1, 14)
            return self.scores(features), boxes[..., :4]

    heads = find_heads(Boxes(), X)
    assert {(head.path, head.num_classes) for head in heads} == {("scores", 3), ("fc", 3)}


def test_anchors_that_are_joined_from_several_levels_leave_no_doubt() -> None:
    def levels(y: Tensor) -> Tensor:
        return torch.cat([part.reshape(len(y), -1, 7) for part in (y, y * 2)], 1)

    (head,) = find_heads(Detector(levels), X)
    assert (head.num_classes, head.class_dim) == (7, 2)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=str)
def test_classes_whose_parts_are_all_returned_are_swapped(order: tuple[int, int]) -> None:
    """One layer gives the mean and the variance of each class, which forward takes apart and stacks again."""

    def moments(y: Tensor) -> Tensor:
        parts = y.view(len(y), -1, 2).unbind(-1)
        return torch.stack([parts[index].exp() for index in order], 1)

    model: Any = Detector(moments)
    swap_head(model, 5, X)
    assert model(X).shape == (2, 2, 5)


WHOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "stacked": lambda y: torch.stack(y.unbind(1), -1),
    "with a new dimension each": lambda y: torch.cat([part.unsqueeze(-1) for part in y.unbind(-1)], -1),
    "slices": lambda y: torch.cat([y[:, index : index + 1] for index in range(y.shape[1])], 1),
    "two ways": lambda y: torch.stack([y[:, j] for j in range(y.shape[1])], 1) + torch.stack(y.unbind(1), 1),
}


@pytest.mark.parametrize("end", WHOLE.values(), ids=WHOLE)
def test_logits_that_are_taken_apart_and_joined_whole_are_classes(end: Callable[[Tensor], Tensor]) -> None:
    model = Detector(end, classes=6)
    (head,) = swap_head(model, 5, X).heads
    assert (head.path, head.class_dim, model(X).shape) == ("fc", 1, (2, 5))
