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


CUT: dict[str, Callable[[Tensor], Any]] = {
    "slices": lambda y: (y.view(len(y), -1, 14)[..., :4], y.view(len(y), -1, 14)[..., 4:]),
    "only the scores": lambda y: y.view(len(y), -1, 14)[..., 4:].sigmoid(),
    "split": lambda y: torch.split(y.view(len(y), -1, 14), [4, 10], -1),
    "anchors last": lambda y: y.view(len(y), 14, -1)[:, 4:],
    "narrow": lambda y: {"scores": y.reshape(len(y), -1, 14).narrow(2, 4, 10)},
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
