"""The activation of a head is what makes its scores the output, not a gate or an attention on the way there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import find_heads, swap_head

X = torch.randn(4, 6, 8)


class Net(nn.Module):
    """Two layers from 6 tokens to 10 classes, and `combine`, which turns what they compute into the output."""

    def __init__(self, combine: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.a, self.b, self.gate = nn.Linear(16, 10), nn.Linear(16, 10), nn.Linear(16, 1)
        self.queries = nn.Parameter(torch.randn(10, 16))
        self.score = nn.Linear(16, 1)
        self.shift = nn.Parameter(torch.randn(10))
        self.sig = nn.Sigmoid()
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.relu(self.body(x))
        return self.combine(self, tokens, tokens.mean(1))


def class_queries(net: Any, tokens: Tensor, _: Tensor) -> Tensor:
    attention = (net.queries @ tokens.transpose(1, 2)).softmax(-1)  # over the tokens
    return net.score(attention @ tokens).squeeze(-1)  # type: ignore[no-any-return]


def multihead_attention(net: Any, tokens: Tensor, _: Tensor) -> Tensor:
    queries = net.queries.expand(len(tokens), -1, -1)
    return net.score(nn.functional.scaled_dot_product_attention(queries, tokens, tokens)).squeeze(-1)  # type: ignore[no-any-return]


WITHOUT = {
    "class queries": class_queries,
    "fused attention": multihead_attention,
    "gate of another layer": lambda net, _, f: net.a(f) * net.sig(net.b(f)),
    "gate of the scores themselves": lambda net, _, f: net.a(f) * net.sig(net.a(f)),
    "attention over the classes": lambda net, _, f: net.a(f) * net.b(f).softmax(-1),
    "added to noisy scores": lambda net, _, f: net.a(f) + torch.randn_like(net.a(f)) + net.sig(net.b(f)),
    "added to scores": lambda net, _, f: net.a(f) + net.sig(net.b(f)),
    "pooled by attention over tokens": lambda net, t, _: (net.a(t) * net.gate(t).softmax(1)).sum(1),
    "pooled by attention of each class": lambda net, t, _: (net.a(t) * net.b(t).softmax(1)).sum(1),
    "softmax over tokens": lambda net, t, _: net.a(t).softmax(1).amax(1),
    "chosen by a gate in place": lambda net, _, f: net.a(f).mul_(net.sig(net.b(f))),
}
WITH = {
    "softmax": ("softmax", lambda net, _, f: net.a(f).softmax(-1)),
    "softmax with a negative dim of a map": ("softmax", lambda net, t, _: net.a(t).transpose(1, 2).softmax(-2)),
    "average of two": ("softmax", lambda net, _, f: (net.a(f).softmax(-1) + net.b(f).softmax(-1)) / 2),
    "mixture": ("softmax", lambda net, t, _: (net.a(t).softmax(-1) * net.gate(t).softmax(1)).sum(1)),
    "objectness times class": ("sigmoid", lambda net, _, f: net.sig(net.a(f)) * net.sig(net.gate(f))),
    "objectness of each class": ("sigmoid", lambda net, _, f: net.sig(net.a(f)) * net.sig(net.b(f))),
    "pooled by attention": ("sigmoid", lambda net, t, _: (net.sig(net.a(t)) * net.b(t).softmax(1)).sum(1)),
    "shifted scores": ("sigmoid", lambda net, _, f: net.sig(net.a(f) + net.shift)),
    "shifted output": ("sigmoid", lambda net, _, f: net.sig(net.a(f)) + net.shift),
    "hard choice": ("softmax", lambda net, _, f: nn.functional.gumbel_softmax(net.a(f), hard=True)),
    "log": ("log_softmax", lambda net, _, f: net.a(f).log_softmax(-1)),
    "gate before the softmax": ("softmax", lambda net, _, f: (net.a(f) * net.sig(net.b(f))).softmax(-1)),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_gates_and_attention_are_not_the_activation_of_a_head(name: str) -> None:
    model = Net(WITHOUT[name])
    swap = swap_head(model, 5, X)
    assert {head.activation for head in swap.heads} == {None}
    assert not any("stays after" in note for note in swap.notes)
    assert model(X).shape[-1] == 5


@pytest.mark.parametrize("name", WITHOUT)
def test_gates_and_attention_stay_if_the_activation_is_dropped(name: str) -> None:
    model = Net(WITHOUT[name])
    swap_head(model, 5, X, activation="drop")
    assert isinstance(model.sig, nn.Sigmoid)


@pytest.mark.parametrize("name", WITH)
def test_what_makes_scores_the_output_is_the_activation(name: str) -> None:
    activation, combine = WITH[name]
    heads = find_heads(Net(combine), X)
    assert {head.activation for head in heads} == {activation}
