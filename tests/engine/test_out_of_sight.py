"""Heads whose class dimension no single operation passes on, or whose tensors torch's dispatcher does not see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pytest_headswap import HeadSwapError, find_heads, swap_head

X = torch.randn(4, 8)
Head = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """Features of width 16, and a head written as a function of features, weight (classes, 16) and bias (classes)."""

    def __init__(self, head: Head, classes: int = 10) -> None:
        super().__init__()
        self.head = head
        self.body = nn.Linear(8, 16)
        self.w = nn.Parameter(torch.randn(classes, 16))
        self.b = nn.Parameter(torch.randn(classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.body(x)), self.w, self.b)


class Tagged(torch.Tensor):
    pass


class TaggedFunction(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


def loop_of_writes(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    out = h.new_zeros(len(h), len(w))
    for j in range(len(w)):
        out[:, j] = h @ w[j] + b[j]
    return out


def loop_of_sums(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    out = b.expand(len(h), len(b))
    for i in range(h.shape[1]):
        out = out + h[:, i : i + 1] * w[:, i]
    return out


BOTH: dict[str, Head] = {
    "product and sum": lambda h, w, b: (w * h[:, None]).sum(-1) + b,
    "product and mean": lambda h, w, b: (h[:, :, None] * w.t()).mean(1) + b,
    "product and weighted sum": lambda h, w, b: (w * h[:, None]) @ torch.ones(16, device=h.device) + b,
    "vecdot": lambda h, w, b: torch.linalg.vecdot(h[:, None], w[None]) + b,
    "cosine similarity": lambda h, w, b: F.cosine_similarity(h[:, None], w[None], dim=-1) * b.exp(),
    "rows of a linear": lambda h, w, b: torch.cat([F.linear(h, w[j : j + 1], b[j : j + 1]) for j in range(len(w))], 1),
    "stack of columns": lambda h, w, b: torch.stack([h @ w.t()[:, j] + b[j] for j in range(len(w))], 1),
    "stack over an iteration": lambda h, w, b: torch.stack([h @ r + s for r, s in zip(w, b, strict=True)], 1),
    "stack in front": lambda h, w, b: torch.stack([(h * w[j]).sum(-1) for j in range(len(w))]).t() + b,
    "split": lambda h, w, b: torch.cat([F.linear(h, row) for row in torch.split(w, 1)], 1) + b,
    "a loop of writes": loop_of_writes,
    "a loop of sums": loop_of_sums,
    "features of a subclass": lambda h, w, b: F.linear(h.as_subclass(Tagged), w, b),
    "output of a subclass": lambda h, w, b: F.linear(h, w, b).as_subclass(TaggedFunction),
    "a subclass and back": lambda h, w, b: F.linear(h.as_subclass(TaggedFunction), w, b).as_subclass(torch.Tensor),
}


@pytest.mark.parametrize("name", BOTH)
def test_the_head_is_found_swapped_trained_and_restored(name: str) -> None:
    if "subclass" in name and torch.__version__.startswith("2.4."):
        pytest.skip("torch 2.4 cannot make a subclass of a tensor that a dispatch mode has seen")
    model = Net(BOTH[name]).eval()
    before, expected = {key: value.clone() for key, value in model.state_dict().items()}, model(X)
    swap = swap_head(model, 5, X)
    assert [head.tensors for head in swap.heads] == [("w", "b")]
    assert swap.heads[0].in_features == 16
    out = model(X)
    assert out.shape == (4, 5)
    out.as_subclass(torch.Tensor).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in swap.parameters())
    swap.restore()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(X), expected)


DISTANCES: dict[str, Head] = {
    "squares": lambda h, w, b: -((h[:, None] - w) ** 2).sum(-1),
    "absolute differences": lambda h, w, b: -(w - h[:, None]).abs().sum(-1),
    "a norm": lambda h, w, b: -torch.linalg.vector_norm(h[:, None] - w, ord=3, dim=-1),
    "pairwise_distance": lambda h, w, b: -F.pairwise_distance(h[:, None], w[None]),
    "cdist": lambda h, w, b: -torch.cdist(h, w),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_to_prototypes_are_a_head(name: str) -> None:
    model = Net(DISTANCES[name])
    swap = swap_head(model, 5, X)
    assert (swap.heads[0].kind, swap.heads[0].tensors) == ("distance", ("w",))
    assert model(X).shape == (4, 5)
    model(X).sum().backward()
    assert model.w.grad is not None
    assert model.w.grad.any()


@pytest.mark.parametrize("equation", ["bd,cd->bc", "cd,bd->bc", "...d,cd->...c"])
def test_a_head_with_one_class_is_found_in_an_einsum(equation: str) -> None:
    def head(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.einsum(equation, *((w, h) if equation.startswith("c") else (h, w)))

    model = Net(head, 1)
    swap = swap_head(model, 5, X)
    assert model(X).shape == (4, 5)
    swap.restore()
    assert model(X).shape == (4, 1)


def test_a_class_count_written_into_forward_is_refused() -> None:
    model = Net(lambda h, w, b: torch.stack([h @ w[j] for j in range(10)], 1))
    with pytest.raises(HeadSwapError) as error:
        swap_head(model, 5, X)
    assert error.value.reason == "verification_failed"
    assert model.w.shape == (10, 16)


def test_a_stack_of_some_rows_sets_no_class_dimension() -> None:
    model = Net(lambda h, w, b: torch.stack([h @ w[j] for j in (0, 1, 1)], 1))
    with pytest.raises(HeadSwapError):
        swap_head(model, 5, X)


def test_a_table_that_is_added_to_features_is_not_a_head() -> None:
    """Positions are averaged, as in a product and sum, but the features have the dimension too."""
    model = Net(lambda h, w, b: (h[:, None, :].expand(-1, 10, -1) + w).mean(1))
    heads = find_heads(model, X)
    assert [head.path for head in heads] == ["body"]


def test_a_stack_over_time_with_a_table_of_positions_is_not_a_head() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(8, 16)
            self.positions = nn.Parameter(torch.randn(6, 8))
            self.out = nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = x.new_zeros(len(x), 16)
            steps = []
            for step in range(x.shape[1]):
                h = self.cell(x[:, step] + self.positions[step], h)
                steps.append(self.out(h))
            return torch.stack(steps, 1)

    assert [head.path for head in find_heads(Recurrent(), torch.randn(4, 6, 8))] == ["out"]


def test_a_convolution_with_a_weight_in_a_list_is_refused_and_the_weight_is_named() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.hidden = nn.Conv2d(3, 16, 3), [torch.randn(10, 16, 1, 1)]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.conv2d(self.body(x), self.hidden[0])

    with pytest.raises(HeadSwapError, match=r"\(hidden\[0\]\) that Hidden does not register"):
        swap_head(Hidden(), 5, torch.zeros(2, 3, 8, 8))
