"""Heads of other forms: a squeezed logit, tables of class scores, thresholds of ordinal regression."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_headswap import HeadSwapError, find_heads, freeze_backbone, swap_head

X = torch.randn(4, 8)
TOKENS = torch.randint(0, 50, (4, 6))


class OneLogit(nn.Module):
    def __init__(self, finish: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.fc = nn.Linear(16, 1)
        self.finish = finish

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.fc(F.relu(self.body(x))))


SQUEEZES: dict[str, Callable[[Tensor], Tensor]] = {
    "the last dimension": lambda y: y.squeeze(-1),
    "a dimension by number": lambda y: y.squeeze(1),
    "all dimensions": lambda y: y.squeeze(),
    "before a sigmoid": lambda y: y.squeeze(-1).sigmoid(),
    "after a sigmoid": lambda y: 2 * y.sigmoid().squeeze(-1),
}


@pytest.mark.parametrize("name", SQUEEZES)
def test_a_squeezed_logit_becomes_one_dimension_of_classes(name: str) -> None:
    model = OneLogit(SQUEEZES[name])
    swap = swap_head(model, 5, X)
    assert (swap.heads[0].path, swap.old_heads[0].num_classes, swap.heads[0].class_dim) == ("fc", 1, 1)
    out = model(X)
    assert out.shape == (4, 5)
    out.square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in swap.parameters())
    swap.restore()
    assert model(X).shape == (4,)


def test_a_squeezed_logit_can_be_swapped_for_another_or_removed() -> None:
    model = OneLogit(lambda y: y.squeeze(-1))
    swap = swap_head(model, 1, X)
    assert model(X).shape == (4,)
    swap.restore()
    swap_head(model, 0, X)
    assert model(X).shape == (4, 16)


@pytest.mark.parametrize("cut", [lambda y: y[:, 0], lambda y: y.flatten(), lambda y: y.view(-1)])
def test_a_logit_that_forward_selects_is_refused(cut: Callable[[Tensor], Tensor]) -> None:
    model = OneLogit(cut)
    with pytest.raises(HeadSwapError, match=r"squeeze\(-1\)") as error:
        swap_head(model, 5, X)
    assert error.value.reason == "unsupported_layer"
    assert model.fc.weight.shape == (1, 16)


def test_a_squeezed_value_next_to_logits_is_no_class_dimension() -> None:
    class ActorCritic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.actor, self.critic = nn.Linear(8, 16), nn.Linear(16, 10), nn.Linear(16, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.body(x)
            return self.actor(h), self.critic(h).squeeze(-1)

    assert [head.path for head in find_heads(ActorCritic(), X)] == ["actor"]


class Bag(nn.Module):
    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table
        self.bias = nn.Parameter(torch.zeros(10))

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.table(tokens)
        if scores.dim() > 2:
            scores = scores.mean(1)
        return scores + self.bias


@pytest.mark.parametrize(
    "table",
    [nn.EmbeddingBag(50, 10), nn.EmbeddingBag(50, 10, mode="sum"), nn.Embedding(50, 10)],
    ids=["a bag", "a bag that sums", "an embedding that is averaged"],
)
def test_a_table_of_class_scores_is_a_head(table: nn.Module) -> None:
    model = Bag(table)
    swap = swap_head(model, 5, TOKENS)
    assert (swap.heads[0].kind, swap.heads[0].in_features) == ("embedding", 50)
    assert swap.heads[0].tensors == ("table.weight", "bias")
    assert table.embedding_dim == 5
    assert model(TOKENS).shape == (4, 5)
    model(TOKENS).square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in swap.parameters())
    swap.restore()
    assert model(TOKENS).shape == (4, 10)


def test_an_embedding_of_each_token_is_not_a_head() -> None:
    with pytest.raises(HeadSwapError) as error:
        swap_head(nn.Sequential(nn.Embedding(50, 10), nn.Dropout()), 5, TOKENS)
    assert error.value.reason == "no_layer_sets_output"


class Ordinal(nn.Module):
    def __init__(self, *, above: bool) -> None:
        super().__init__()
        self.above = above
        self.body = nn.Linear(8, 16)
        self.fc = nn.Linear(16, 1, bias=False)
        self.thresholds = nn.Parameter(torch.arange(9.0))

    def forward(self, x: Tensor) -> Tensor:
        score: Tensor = self.fc(F.relu(self.body(x)))
        return score + self.thresholds if self.above else self.thresholds - score


@pytest.mark.parametrize("above", [True, False])
def test_the_thresholds_of_an_ordinal_head_take_the_count(above: bool) -> None:
    model = Ordinal(above=above)
    swap = swap_head(model, 5, X)
    assert (swap.heads[0].kind, swap.heads[0].tensors) == ("thresholds", ("thresholds",))
    assert model(X).shape == (4, 5)
    freeze_backbone(swap)
    assert [name for name, value in model.named_parameters() if value.requires_grad] == ["thresholds"]
    with pytest.raises(HeadSwapError):
        swap_head(model, 0, X)


def test_a_head_that_is_called_twice_is_swapped_and_frozen() -> None:
    class Twice(OneLogit):
        def forward(self, x: Tensor) -> Tensor:
            first: Tensor = self.fc(self.body(x))
            second: Tensor = self.fc(self.body(x + first.mean(-1, keepdim=True)))
            return second

    model = Twice(lambda y: y)
    model.fc = nn.Linear(16, 10)
    swap = swap_head(model, 5, X)
    freeze_backbone(swap)
    assert model(X).shape == (4, 5)
    assert [name for name, value in model.named_parameters() if value.requires_grad] == ["fc.weight", "fc.bias"]
