"""An output that may hold the classes, but cannot be swapped, leaves no other head to be swapped in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, swap_head

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, logits: Callable[[Any, Tensor], Tensor], other: int) -> None:
        super().__init__()
        self.logits = logits
        self.body, self.other = nn.Linear(8, 16), nn.Linear(16, other)
        self.a, self.b, self.wide = nn.Linear(16, 4), nn.Linear(16, 6), nn.Linear(16, 30)
        self.plain = torch.randn(16, 10)
        self.listed = [torch.randn(16, 10)]

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.body(x))
        return {"other": self.other(h), "logits": self.logits(self, h)}


KINDS: dict[str, tuple[str, str, Callable[[Any, Tensor], Tensor]]] = {
    "concatenated": ("concatenated", "a.weight, b.weight", lambda m, h: torch.cat([m.a(h), m.b(h)], -1)),
    "cut": ("composite", "wide.weight", lambda m, h: m.wide(h)[:, :10]),
    "cut from a merged dimension": (
        "composite",
        "wide.weight",
        lambda m, h: m.wide(h).view(-1, 10, 3).flatten(1)[:, :9],
    ),
    "stacked": ("composite", "wide.weight", lambda m, h: torch.stack([m.wide(h)[:, i].tanh() for i in range(7)], -1)),
    "a plain attribute": ("unsupported_layer", "plain", lambda m, h: h @ m.plain),
    "an einsum with a tensor in a list": (
        "unsupported_layer",
        "an unnamed tensor",
        lambda m, h: torch.einsum("bd,dc->bc", h, m.listed[0]),
    ),
}


@pytest.mark.parametrize("other", [1, 4], ids=["critic", "box"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_beside_classes_that_cannot_be_swapped_is_refused_unless_selected(kind: str, other: int) -> None:
    reason, names, logits = KINDS[kind]
    model = Net(logits, other)
    with pytest.raises(HeadSwapError) as caught:
        swap_head(model, 5, X)
    assert caught.value.reason == reason
    assert all(text in caught.value.message for text in ("output['logits']", names, "'other'", "head=PATH"))
    assert model.other.out_features == other
    swap_head(model, 5, X, head="other")
    assert model(X)["other"].shape == (4, 5)


def test_a_head_with_the_stated_count_or_chosen_by_arg_max_is_swapped() -> None:
    stated = Net(KINDS["concatenated"][2], 4)
    stated.num_classes = 4  # type: ignore[assignment]
    swap_head(stated, 5, X)
    chosen = Net(KINDS["concatenated"][2], 4)
    forward = chosen.forward
    chosen.forward = lambda x: forward(x) | {"label": forward(x)["other"].argmax(-1)}  # type: ignore[method-assign]
    swap_head(chosen, 5, X)
    assert stated.other.out_features == chosen.other.out_features == 5


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.LSTM(8, 12, 2), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Any:
        out, (h, c) = self.body(x[None])
        return self.fc(out[-1]), h, c


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.attend, self.fc = nn.Linear(8, 12), nn.MultiheadAttention(12, 3), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Any:
        h = self.body(x[None].repeat(5, 1, 1))
        out, maps = self.attend(h, h, h, average_attn_weights=False)
        return self.fc(out.mean(0)), maps, h.view(-1, 3, 4)


class Parts(nn.Module):
    """Returns the parts of one layer that the head reads, as in a variational bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 12), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Any:
        mean, deviation = self.body(x).chunk(2, -1)
        return self.fc(mean + deviation.exp()), mean, deviation


@pytest.mark.parametrize("kind", [Recurrent, Attention, Parts])
def test_features_without_a_dimension_of_one_layer_beside_the_head_do_not_matter(kind: type[Any]) -> None:
    model = kind()
    assert [head.path for head in swap_head(model, 5, X).heads] == ["fc"]
    assert model.fc.out_features == 5
