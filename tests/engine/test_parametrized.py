"""A head whose weight is computed from stored tensors gets the weight of a newly built and parametrised layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm
from torch.nn.utils import prune as torch_prune

from pytest_headswap.engine import HeadSwapError, HeadSwapWarning, swap_head

prune: Any = torch_prune
weight_norm_over: Any = parametrizations.weight_norm
Change = Callable[[Any], Any]
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
SIZES = [(10, 5), (10, 20), (20, 5), (10, 16)]  # the head reads 16 features


class Positive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()

    def right_inverse(self, x: Tensor) -> Tensor:
        return x.abs().clamp_min(1e-6).log()


class LowRank(nn.Module):
    """Two originals, of which only the first has the classes."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    def right_inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u, s, v = torch.linalg.svd(x, full_matrices=False)
        return u[:, :3] * s[:3], v[:3]


class Centred(nn.Module):
    """No `right_inverse`: torch takes the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True)


class Added(nn.Module):
    """A parametrization with a class-sized parameter of its own, which starts at 0."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(rows, 2))
        self.b = nn.Parameter(torch.randn(2, columns))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.a @ self.b


def register(fc: Any, *parametrizations_: nn.Module, name: str = "weight", unsafe: bool = False) -> None:
    for item in parametrizations_:
        parametrize.register_parametrization(fc, name, item, unsafe=unsafe)


def weight_then_spectral_norm(fc: Any) -> None:
    parametrizations.weight_norm(fc)
    parametrizations.spectral_norm(fc)


KINDS: dict[str, Change] = {
    "orthogonal": parametrizations.orthogonal,
    "householder": lambda fc: parametrizations.orthogonal(fc, use_trivialization=False),
    "weight norm": parametrizations.weight_norm,
    "weight norm over all": lambda fc: weight_norm_over(fc, dim=None),
    "spectral norm": parametrizations.spectral_norm,
    "positive": lambda fc: register(fc, Positive()),
    "low rank": lambda fc: register(fc, LowRank(), unsafe=True),
    "centred": lambda fc: register(fc, Centred()),
    "two": lambda fc: register(fc, Positive(), Centred()),
    "weight, then spectral norm": weight_then_spectral_norm,
    "added": lambda fc: register(fc, Added(*fc.weight.shape)),
    "the bias": lambda fc: register(fc, Positive(), name="bias"),
    "weight norm by hook": weight_norm,
    "spectral norm by hook": spectral_norm,
    "pruned": lambda fc: prune.l1_unstructured(fc, "weight", 0.5),
}


def model_with(kind: str, classes: int = 10) -> Any:
    torch.manual_seed(0)
    fc = nn.Linear(16, classes)
    KINDS[kind](fc)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), fc)


def quiet_swap(model: nn.Module, count: int, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadSwapWarning)
        return swap_head(model, count, X, **options)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_head_computes_the_same_in_a_freshly_swapped_model(kind: str) -> None:
    model, other = model_with(kind), model_with(kind)
    swap = quiet_swap(model.eval(), 5)
    saved = {name: value.clone() for name, value in swap.state_dict().items()}
    quiet_swap(other.eval(), 5).load_state_dict(saved)
    torch.testing.assert_close(other(X), model(X))
    swap.restore()


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_is_spread_like_that_of_a_new_layer_and_learns(kind: str, sizes: tuple[int, int]) -> None:
    old, count = sizes
    model, fresh = model_with(kind, old), model_with(kind, count)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    swap = quiet_swap(model, count)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in fresh.state_dict().items()
    }
    for _ in range(20):  # the older spectral_norm needs these to find the singular vectors
        fresh(X)
    model.eval()(X), fresh.eval()(X)
    spread, expected = model[2].weight.detach().std(), fresh[2].weight.detach().std()
    assert 0.6 < spread / expected < (3 if kind == "pruned" else 1.7)
    if kind in ("orthogonal", "householder"):
        weight = model[2].weight.detach()
        small = weight @ weight.T if count < 16 else weight.T @ weight
        torch.testing.assert_close(small, torch.eye(len(small)), atol=1e-4, rtol=0)
    model.train()
    model(X).square().sum().backward()
    names = [name for name, parameter in model.named_parameters() if name.startswith("2.") and parameter.grad is None]
    assert names == []
    assert [name for name, p in swap.named_parameters() if p.grad is None or not p.grad.any()] == []
    swap.restore()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["orthogonal", "householder", "spectral norm", "weight norm", "positive"])
def test_zeros_that_a_parametrization_cannot_make_are_refused(kind: str) -> None:
    model = model_with(kind)
    before, outputs = model.state_dict(), model.eval()(X)
    with pytest.raises(HeadSwapError, match=r"init='zeros' is not possible: 2.weight is computed by") as caught:
        swap_head(model, 5, X, init="zeros")
    assert caught.value.reason == "bad_argument"
    assert model.state_dict().keys() == before.keys()
    assert torch.equal(model(X), outputs)


@pytest.mark.parametrize("kind", ["centred", "added", "pruned"])
def test_zeros_that_a_parametrization_can_make_are_set(kind: str) -> None:
    model = model_with(kind)
    quiet_swap(model, 5, init="zeros")
    assert model(X).abs().sum() == 0


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("kind", ["weight norm", "weight norm by hook", "positive", "pruned"])
def test_a_function_fills_the_weight_and_not_what_it_is_stored_as(kind: str) -> None:
    model, seen = model_with(kind), []

    def fill(name: str, tensor: Tensor) -> None:
        seen.append(name)
        nn.init.constant_(tensor, 0.25)

    quiet_swap(model, 5, init=fill)
    assert sorted(seen) == ["2.bias", "2.weight"]
    torch.testing.assert_close(model(X), model[2](model[1](model[0](X))))
    torch.testing.assert_close(model[2].weight.detach(), torch.full((5, 16), 0.25))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("kind", ["weight norm", "weight norm by hook", "low rank"])
def test_class_map_keeps_rows_of_the_weight_or_warns(kind: str) -> None:
    model = model_with(kind)
    rows = model[2].weight.detach()[[7, 2]].clone()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        swap = swap_head(model, 3, X, class_map={0: 7, 2: 2})
    kept = torch.allclose(model[2].weight.detach()[[0, 2]], rows, atol=1e-5)
    assert kept or swap.notes == (
        "2.weight is computed by LowRank, which changes those of class_map: compare them before training",
    )
    assert len(caught) == len(swap.notes)


def test_class_map_warns_if_an_orthogonal_weight_cannot_keep_the_rows() -> None:
    model = model_with("orthogonal")
    with pytest.warns(HeadSwapWarning, match="_Orthogonal, which changes the rows that class_map keeps"):
        swap_head(model, 3, X, class_map={2: 7})


def test_a_parametrization_that_rejects_the_new_weight_is_named() -> None:
    class OnlyTen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 1

        def right_inverse(self, x: Tensor) -> Tensor:
            if len(x) != 10:
                raise ValueError("ten rows, please")
            return x

    model = model_with("pruned")
    model[2] = nn.Linear(16, 10)
    register(model[2], OnlyTen())
    with pytest.raises(HeadSwapError, match=r"OnlyTen does not accept a weight of shape .*ten rows, please") as caught:
        swap_head(model, 5, X)
    assert caught.value.reason == "unsupported_layer"
    assert model(X).shape == (4, 10)


def test_a_parametrised_head_on_the_meta_device_is_swapped() -> None:
    model = nn.Sequential(nn.Linear(8, 16), parametrizations.weight_norm(nn.Linear(16, 10))).to("meta")
    swap_head(model, 5, X.to("meta"))
    assert model(X.to("meta")).shape == (4, 5)


@pytest.mark.parametrize("kind", ["orthogonal", "weight norm", "spectral norm", "pruned"])
def test_a_class_map_of_a_parametrised_head_works_on_the_meta_device(kind: str) -> None:
    model = model_with(kind).to("meta")
    swap = quiet_swap(model, 3, class_map=[7, None, 2])
    assert model(X.to("meta")).shape == (4, 3)
    swap.restore()
    assert model(X.to("meta")).shape == (4, 10)


def test_an_orthogonal_convolution_keeps_orthogonal_matrices() -> None:
    """The matrices are the last two dimensions, so that its buffer has one for each class and channel."""
    head: Any = nn.utils.parametrizations.orthogonal(nn.Conv2d(8, 10, 3))
    swap = swap_head(nn.Sequential(nn.Conv2d(3, 8, 3), head, nn.Flatten(2)), 5, torch.randn(2, 3, 8, 8))
    products = head.weight @ head.weight.mT
    torch.testing.assert_close(products, torch.eye(3).expand_as(products), rtol=0, atol=1e-4)
    assert swap.notes == ()


class Plus(nn.Module):
    """Add a value that is computed from the weight of another layer. It cannot be inverted."""

    def __init__(self, other: nn.Linear, reduce: Change) -> None:
        super().__init__()
        self.other, self.reduce = [other], reduce

    def forward(self, x: Tensor) -> Tensor:
        return x + self.reduce(self.other[0].weight)  # type: ignore[no-any-return]


PERMUTATIONS = {"the same order": list(range(10)), "another order": [*range(5, 10), *range(5)]}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("order", PERMUTATIONS.values(), ids=PERMUTATIONS)
@pytest.mark.parametrize("kind", [name for name in KINDS if name != "weight, then spectral norm"])
def test_a_class_map_with_all_classes_keeps_every_output(kind: str, order: list[int]) -> None:
    model = model_with(kind).eval()
    before = model(X)
    swap = swap_head(model, 10, X, class_map=order)
    assert not swap.notes
    torch.testing.assert_close(model.eval()(X), before[:, order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [5, 12])
@pytest.mark.parametrize("kind", ["spectral norm", "spectral norm by hook"])
def test_a_warning_says_that_spectral_norm_changes_kept_rows(kind: str, count: int) -> None:
    model = model_with(kind)
    with pytest.warns(HeadSwapWarning, match="changes the rows that class_map keeps"):
        swap_head(model, count, X, class_map=range(5))
    model.eval()(X)
    assert torch.linalg.matrix_norm(model[2].weight, 2).item() == pytest.approx(1, abs=0.2)


class Summed(nn.Module):
    """The weight of the head is a sum with prototypes, or with a number that depends on the body."""

    def __init__(self, of_body: bool) -> None:
        super().__init__()
        self.body, self.fc, self.prototypes = nn.Linear(8, 16), nn.Linear(16, 10), nn.Linear(16, 10, bias=False)
        register(self.fc, Plus(self.body, lambda w: w.mean()) if of_body else Plus(self.prototypes, lambda w: w))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.body(x)))  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:prototypes.weight")
@pytest.mark.parametrize("count", [5, 10, 12])
@pytest.mark.parametrize("of_body", [True, False])
def test_rows_of_class_map_are_kept_behind_a_sum_with_another_weight(of_body: bool, count: int) -> None:
    model = Summed(of_body).eval()
    before = model(X)
    swap = swap_head(model, count, X, class_map=range(5))
    assert not any("fc.weight" in note for note in swap.notes)
    torch.testing.assert_close(model.eval()(X)[:, :5], before[:, :5], rtol=1e-4, atol=1e-4)
    swap.restore()
    assert torch.equal(model(X), before)


def test_a_parametrised_tensor_stays_shared_under_its_other_name() -> None:
    model = model_with("weight norm")
    model[2].scale = model[2].parametrizations.weight.original0
    swap = swap_head(model, 5, X)
    assert model[2].scale is model[2].parametrizations.weight.original0
    assert not swap.notes
    swap.restore()
    assert model[2].scale is model[2].parametrizations.weight.original0


def test_a_mask_whose_rows_are_all_kept_is_not_named() -> None:
    model = model_with("pruned")
    mask = model[2].weight_mask
    assert not swap_head(model, 3, X, class_map=[7, 8, 9]).notes
    assert torch.equal(model[2].weight_mask, mask[7:])
