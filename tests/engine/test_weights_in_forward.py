"""Heads whose weight forward computes: adapters, sums, caches, stacked parameters, and hooks on parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from pytest_headswap.engine import HeadSwapError, HeadSwapWarning, find_heads, freeze_backbone, swap_head

orthogonal: Any = parametrizations.orthogonal
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Body(nn.Module):
    """A body and a head. `weight` computes the head's weight from it."""

    def __init__(self, weight: Callable[[Any], Tensor], **parameters: tuple[int, ...]) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)
        self.weight = weight
        for name, shape in parameters.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(torch.relu(self.body(x)), self.weight(self), self.fc.bias)


def dora(model: Any) -> Tensor:
    weight = model.fc.weight + model.up @ model.down
    return model.size * weight / weight.norm(dim=1, keepdim=True)  # type: ignore[no-any-return]


ZERO: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "low rank": (lambda: Body(lambda m: m.fc.weight + 2 * (m.up @ m.down), up=(10, 2), down=(2, 16)), True),
    "a sum": (lambda: Body(lambda m: m.fc.weight - m.other, other=(10, 16)), True),
    "a number for each class": (lambda: Body(lambda m: m.fc.weight + m.offset[:, None], offset=(10,)), True),
    "scaled": (lambda: Body(lambda m: m.fc.weight * m.scale, scale=(1,)), True),
    "normalised": (lambda: Body(lambda m: functional.normalize(m.fc.weight)), True),
    "transposed": (lambda: Body(lambda m: m.other.t(), other=(16, 10)), True),
    "by a shift": (lambda: Body(lambda m: m.fc.weight + m.shift, shift=(1, 16)), False),
    "by exp": (lambda: Body(lambda m: m.fc.weight.exp()), False),
    "by a layer": (lambda: Body(lambda m: functional.linear(m.fc.weight, m.mix, m.fc.weight[0]), mix=(16, 16)), False),
    "length and direction": (lambda: Body(dora, up=(10, 2), down=(2, 16), size=(10, 1)), False),
}


@pytest.mark.filterwarnings("ignore:.*this forward does not use the tensor")
@pytest.mark.parametrize(("make", "is_zero"), [v for k, v in ZERO.items() if k != "by a layer"])
def test_init_zeros_gives_outputs_of_zero_or_a_warning(make: Callable[[], nn.Module], is_zero: bool) -> None:
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadSwapWarning)
        swap = swap_head(model, 5, X, init="zeros")
    assert any("the outputs may not be 0" in note for note in swap.notes) is not is_zero
    assert bool((model(X) == 0).all()) is is_zero


@pytest.mark.parametrize("make", [ZERO["low rank"][0], ZERO["length and direction"][0]])
def test_adapters_on_the_head_keep_the_rows_of_class_map(make: Callable[[], nn.Module]) -> None:
    model = make()
    before = model(X)
    swap = swap_head(model, 6, X, class_map=[9, 8, 7])
    torch.testing.assert_close(model(X)[:, :3], before[:, [9, 8, 7]])
    freeze_backbone(swap)
    swap.restore()
    assert torch.equal(model(X), before)


class Cached(nn.Module):
    """Eval mode reads the normalised weight from a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10, bias=False)
        self.cache: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.cache is None:
            self.cache = functional.normalize(self.fc.weight)
        return functional.linear(torch.relu(self.body(x)), self.cache)


def test_a_filled_cache_of_the_weight_is_refused_and_an_empty_one_is_not() -> None:
    model: Any = Cached().eval()
    model(X)
    with pytest.raises(HeadSwapError, match=r"cache: aten::mm multiplies by it.*clear it before the swap") as error:
        swap_head(model, 5, X)
    assert error.value.reason == "unsupported_layer"
    assert model(X).shape == (4, 10)
    model.cache = None
    swap_head(model, 5, X)
    assert model(X).shape == (4, 5)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a slice": (lambda: Body(lambda m: m.big[:10], big=(26, 16)), "computed from it, and the dimension is cut"),
    "a stack": (
        lambda: Body(lambda m: torch.stack([m.big[i] * 2 for i in (0, 3, 5, 7, 9, 2, 4, 6, 8, 1)]), big=(26, 16)),
        "aten::stack makes its class dimension",
    ),
    "looked up": (
        lambda: Body(lambda m: functional.embedding(torch.arange(10, device=m.big.device), m.big), big=(26, 16)),
        "aten::arange makes its class dimension",
    ),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_weight_that_cannot_be_resized_is_refused_with_the_operation(
    make: Callable[[], nn.Module], reason: str
) -> None:
    with pytest.raises(HeadSwapError, match=f"big: the weight of aten::[a-z]+ is {reason}|{reason}") as error:
        find_heads(make(), X)
    assert error.value.reason == "unsupported_layer"


@pytest.mark.parametrize("kind", ["cayley", "matrix_exp"])
def test_an_orthogonal_map_that_mixes_classes_is_refused_with_the_reason(kind: str) -> None:
    fc = nn.Linear(16, 10)
    orthogonal(fc, orthogonal_map=kind)
    with pytest.raises(HeadSwapError, match="parametrise it after the swap") as error:
        swap_head(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), fc), 5, X)
    assert error.value.reason == "unsupported_layer"


class Rows(nn.Module):
    """A list with one parameter for each class."""

    def __init__(self, combine: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.rows = nn.ParameterList(nn.Parameter(torch.randn(16)) for _ in range(10))
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(torch.relu(self.body(x)), self.rows)


@pytest.mark.parametrize(
    ("combine", "reason"),
    [
        (lambda x, rows: torch.stack([x @ row for row in rows], 1), "stack them into one parameter"),
        (
            lambda x, rows: torch.cat([(x * row).sum(1, keepdim=True) for row in rows], 1),
            "one parameter for each label",
        ),
        (lambda x, rows: x @ torch.stack(list(rows), 1), "Store the weight as one parameter"),
    ],
    ids=["stacked results", "joined results", "a stacked weight"],
)
def test_one_parameter_for_each_class_is_refused_with_what_to_do(
    combine: Callable[[Tensor, Any], Tensor], reason: str
) -> None:
    with pytest.raises(HeadSwapError, match=reason) as error:
        swap_head(Rows(combine), 5, X)
    assert error.value.reason == "unsupported_layer"


def test_marks_of_a_parameter_are_kept_and_lost_hooks_are_named() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))
    model[2].weight.no_weight_decay = True
    model[2].bias.register_hook(lambda gradient: gradient * 0)
    old = model[2].bias
    with pytest.warns(HeadSwapWarning, match=r"2\.bias had a gradient hook, and the new tensor has none"):
        swap = swap_head(model, 5, X)
    assert model[2].weight.no_weight_decay is True
    assert not hasattr(model[2].bias, "no_weight_decay")
    swap.restore()
    assert model[2].bias is old


def test_a_layer_whose_own_hook_computes_its_weight_is_initialised() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))
    fc = model[2]
    fc.raw = nn.Parameter(fc._parameters.pop("weight").detach())
    fc.weight = None

    def compute(layer: Any, _: Any) -> None:
        layer.weight = layer.raw * 2

    fc.register_forward_pre_hook(compute)
    swap_head(model, 5, X)
    assert model(X).shape == (4, 5)
    assert 0.05 < fc.raw.std() < 0.25


class SharedTail(nn.Module):
    """Two heads that pass through one module from classes to classes."""

    def __init__(self, tail: nn.Module, is_residual: bool) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.one, self.two, self.tail = nn.Linear(16, 10), nn.Linear(16, 10), tail
        self.is_residual = is_residual

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = torch.relu(self.body(x))
        logits = self.one(x), self.two(x)
        return tuple(item + self.tail(item) if self.is_residual else self.tail(item) for item in logits)


def refine(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, 10))


TAILS: dict[str, Callable[[], nn.Module]] = {
    "a residual layer": lambda: SharedTail(nn.Linear(10, 10), is_residual=True),
    "a calibration": lambda: SharedTail(nn.Linear(10, 10), is_residual=False),
    "a perceptron": lambda: SharedTail(refine(10), is_residual=True),
    "a bottleneck": lambda: SharedTail(refine(3), is_residual=True),
}


@pytest.mark.parametrize("make", TAILS.values(), ids=TAILS)
def test_heads_with_a_shared_tail_are_swapped_together(make: Callable[[], nn.Module]) -> None:
    model: Any = make()
    before = model(X)
    with pytest.raises(HeadSwapError, match="a list of both") as error:
        swap_head(model, 5, X)
    assert error.value.reason == "ambiguous"
    swap = swap_head(model, 5, X, head=["one", "two"])
    assert [head.path for head in swap.heads] == ["one", "two"]
    assert [tuple(output.shape) for output in model(X)] == [(4, 5), (4, 5)]
    assert not any(10 in parameter.shape for parameter in model.parameters())
    freeze_backbone(swap).unfreeze()
    swap.restore()
    assert torch.equal(model(X)[1], before[1])


def test_one_of_two_heads_with_a_shared_tail_is_refused_with_both_paths() -> None:
    with pytest.raises(HeadSwapError, match=r"swap them together with head=\['one', 'two'\]") as error:
        swap_head(TAILS["a residual layer"](), 5, X, head="one")
    assert error.value.reason == "verification_failed"
