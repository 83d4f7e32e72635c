"""A small synthetic data set: shapes of random size, position and brightness, drawn with torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SIZE = 32  # pixels


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) < 0.9


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return x**2 + y**2 < 1


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return ((x**2 + y**2).sqrt() - 0.8).abs() < 0.2


def _plus(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(x.abs(), y.abs()).lt(0.25) & _square(x, y)


def _bar(x: Tensor, y: Tensor) -> Tensor:
    return (y.abs() < 0.3) & (x.abs() < 1)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return (y < 0.8) & (2 * x.abs() - y < 1)


def _diamond(x: Tensor, y: Tensor) -> Tensor:
    return x.abs() + y.abs() < 1.1


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return (x.abs() - y.abs()).abs().lt(0.35) & _square(x, y)


def _frame(x: Tensor, y: Tensor) -> Tensor:
    return (torch.maximum(x.abs(), y.abs()) - 0.75).abs() < 0.2


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "square": _square,
    "circle": _circle,
    "ring": _ring,
    "plus": _plus,
    "bar": _bar,
    "triangle": _triangle,
    "diamond": _diamond,
    "cross": _cross,
    "frame": _frame,
}


def draw(names: Sequence[str], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return noisy images (count, 1, 32, 32) of shapes, and labels (count,) that index `names`."""

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    labels = torch.randint(len(names), (count,), generator=generator)
    rows = torch.arange(SIZE, dtype=torch.float32)
    radius, left, top = between(6, 10), between(11, 21), between(11, 21)
    x = (rows.view(1, 1, -1) - left) / radius
    y = (rows.view(1, -1, 1) - top) / radius
    drawn = torch.stack([SHAPES[name](x, y) for name in names], 1)
    shape = drawn[torch.arange(count), labels] * between(0.5, 1)
    noise = 0.1 * torch.randn(count, SIZE, SIZE, generator=generator)
    return (shape + noise).unsqueeze(1), labels
