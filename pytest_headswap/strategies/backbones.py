"""Backbones of planted models: modules that return features (B, width), or (B, items, width)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn

BATCH = 2


class Residual(nn.Module):
    """A block with a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)  # type: ignore[no-any-return]


class Twice(nn.Module):
    """A layer that is used twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).relu())  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """A GRU; the features are its last state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(6, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0][:, -1]  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention with a class token and position embeddings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(6, width))
        self.attend = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1) + self.positions
        return (x + self.attend(x, x, x, need_weights=False)[0])[:, 0]  # type: ignore[no-any-return]


class Queries(nn.Module):
    """A learned table of queries that attend to the input. The result has one row per query."""

    def __init__(self, width: int, items: int) -> None:
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.queries = nn.Parameter(torch.randn(items, width))
        self.attend = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x, queries = self.embed(x), self.queries.expand(len(x), -1, -1)
        return queries + self.attend(queries, x, x, need_weights=False)[0]  # type: ignore[no-any-return]


class Pooled(nn.Module):
    """The mean over the queries, as in models with learned latents."""

    def __init__(self, width: int, items: int) -> None:
        super().__init__()
        self.latents = Queries(width, items)

    def forward(self, x: Tensor) -> Tensor:
        return self.latents(x).mean(1)  # type: ignore[no-any-return]


def _convolutional(width: int, _: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


@dataclass(frozen=True)
class Backbone:
    """How to build a backbone from a width and a number of items, and the shape of its input."""

    build: Callable[[int, int], nn.Module]
    input_shape: tuple[int, ...]
    one_row: bool = True
    """Whether the features are (B, width)."""


_FEATURES, _SEQUENCE = (BATCH, 6), (BATCH, 5, 6)
BACKBONES = {
    "perceptron": Backbone(lambda width, _: nn.Sequential(nn.Linear(6, width), nn.ReLU()), _FEATURES),
    "residual": Backbone(
        lambda width, _: nn.Sequential(nn.Linear(6, width), Residual(width), Residual(width)), _FEATURES
    ),
    "twice": Backbone(lambda width, _: nn.Sequential(nn.Linear(6, width), Twice(width)), _FEATURES),
    "convolutional": Backbone(_convolutional, (BATCH, 3, 8, 8)),
    "recurrent": Backbone(lambda width, _: Recurrent(width), _SEQUENCE),
    "attention": Backbone(lambda width, _: Attention(width), _SEQUENCE),
    "latents": Backbone(Pooled, _SEQUENCE),
    "queries": Backbone(Queries, _SEQUENCE, one_row=False),
}

# --- wrappers: modules that take the features of another module and return features of the same shape ------------


class Steps(nn.Module):
    """A loop with a count and a table that may happen to be as large as the class count."""

    def __init__(self, width: int, steps: int, name: str) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.rates = nn.Parameter(torch.rand(steps))
        self.register_buffer("offsets", torch.rand(steps))
        self._name = name
        setattr(self, name, steps)

    def forward(self, x: Tensor) -> Tensor:
        offsets = self.get_buffer("offsets")
        for step in range(getattr(self, self._name)):
            x = x + self.rates[step] * torch.tanh(self.layer(x)) + offsets[step]
        return x


class Gate(nn.Module):
    """A gate with an activation that other parts of the model may use too."""

    def __init__(self, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return x * self.activation(self.gate(x))  # type: ignore[no-any-return]


class Table:
    """An object that is not a module and makes a tensor when it is first used."""

    values: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.values is None:
            self.values = torch.ones(x.shape[-1], device=x.device)
        return self.values


@cache
def _cached_ones(width: int, device: torch.device) -> Tensor:
    return torch.ones(width, device=device)


class Cached(nn.Module):
    """Multiply with a tensor that is made in the first forward pass and kept outside of the registries of modules."""

    of_class: ClassVar[dict[int, Tensor]] = {}

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place, self.table = place, Table()
        self.of_instance: dict[int, Tensor] = {}
        type(self).of_class.clear()
        _cached_ones.cache_clear()

    def forward(self, x: Tensor) -> Tensor:
        return x * self._ones(x)

    def _ones(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        if self.place == "object":
            return self.table(x)
        if self.place == "lru_cache":
            return _cached_ones(width, x.device)
        cache = self.of_class if self.place == "class" else self.of_instance
        if width not in cache:
            cache[width] = torch.ones(width, device=x.device)
        return cache[width]


CACHES = ("object", "lru_cache", "class", "instance")
