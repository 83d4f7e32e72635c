"""Class-sized buffers of a new head hold the values of a new layer: statistics, masks and constants, never noise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm
from torch.nn.utils import prune as torch_prune

from pytest_headswap.engine import HeadSwapError, HeadSwapWarning, swap_head
from pytest_headswap.engine.swapping.initialization import INITS

prune: Any = torch_prune
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class InClassSpace(nn.Module):
    """A model with one class-sized buffer."""

    def __init__(self, values: Tensor, *, multiply: bool = False) -> None:
        super().__init__()
        self.values: Tensor
        self.register_buffer("values", values)
        self.multiply = multiply

    def forward(self, x: Tensor) -> Tensor:
        return x * self.values if self.multiply else x + self.values


class RunningScale(nn.Module):
    """A custom layer with statistics per class and without `reset_parameters`."""

    def __init__(self, num_classes: int, start: float = 2.0) -> None:
        super().__init__()
        self.num_classes, self.start = num_classes, start
        self.scale: Tensor
        self.register_buffer("scale", torch.full((num_classes,), start))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.scale.add_(x.detach().abs().mean(0))
        return x / self.scale


def model_with(*behind: nn.Module, fc: nn.Module | None = None) -> Any:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), fc if fc is not None else nn.Linear(16, 10), *behind)


def trained(model: Any, batch: Tensor | None = None) -> Any:
    torch.manual_seed(0)
    model.train()
    for _ in range(12):
        model(torch.randn(16, 8) * 3 if batch is None else batch)
    return model.eval()


def notes_of(model: nn.Module, count: int = 5, inputs: Tensor = X, **options: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        swap = swap_head(model, count, inputs, **options)
    assert all(issubclass(warning.category, HeadSwapWarning) for warning in caught)
    assert [str(warning.message) for warning in caught] == list(swap.notes)
    return swap, list(swap.notes)


@pytest.mark.parametrize("init", INITS)
def test_a_batch_norm_without_weights_after_the_head_is_reset(init: str) -> None:
    model = trained(model_with(nn.BatchNorm1d(10, affine=False)))
    swap, notes = notes_of(model, init=init)
    norm = model[3]
    assert norm.running_mean.tolist() == [0.0] * 5
    assert norm.running_var.tolist() == [1.0] * 5
    assert norm.num_batches_tracked == 0
    assert model(X).isfinite().all()
    assert notes == []
    swap.restore()
    assert norm.running_var.shape == (10,)
    assert norm.num_batches_tracked == 12


def test_a_batch_norm_after_a_convolutional_head_is_reset() -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 10, 1), nn.BatchNorm2d(10, affine=False))
    images = torch.randn(4, 3, 5, 5) * 4
    trained(model, images)
    swap_head(model, 3, images)
    assert model[2].running_var.tolist() == [1.0] * 3
    assert model(images).isfinite().all()


@pytest.mark.parametrize(
    "cut",
    [
        lambda fc: prune.random_unstructured(fc, "weight", 0.5),
        lambda fc: prune.l1_unstructured(fc, "bias", 3),
        lambda fc: prune.ln_structured(fc, "weight", 0.5, 2, dim=1),
    ],
    ids=["at random", "the bias", "whole columns"],
)
def test_replacing_a_pruned_head_warns_that_the_new_one_is_not_pruned(cut: Callable[[Any], None]) -> None:
    torch.manual_seed(0)
    fc = nn.Linear(16, 10)
    cut(fc)
    model = model_with(fc=fc)
    _, notes = notes_of(model)
    masks = {f"2.{name}": buffer for name, buffer in fc.named_buffers()}
    assert masks
    assert all(bool((mask == 1).all()) and 5 in mask.shape for mask in masks.values())
    assert [note.partition(" ")[0] for note in notes] == list(masks)


def test_the_mask_of_a_pruned_head_is_not_mistaken_for_its_weight() -> None:
    fc = nn.Linear(16, 10, bias=False)
    prune.random_unstructured(fc, "weight", 0.5)
    model = model_with(fc=fc)
    with pytest.warns(HeadSwapWarning):
        swap = swap_head(model, 5, X, init="zeros")
    assert swap.heads[0].tensors[0] == "2.weight_orig"
    assert model(X).abs().sum() == 0


@pytest.mark.parametrize(
    ("values", "multiply", "expected", "is_certain"),
    [
        (torch.zeros(10), False, [0.0] * 5, True),
        (torch.full((10,), -2.5), False, [-2.5] * 5, True),
        (torch.full((10,), 0.1), False, [0.2] * 5, True),
        (torch.full((10,), 0.1).log(), False, [math.log(0.2)] * 5, True),
        (torch.arange(10).float().log_softmax(0), False, [math.log(0.2)] * 5, False),
        (torch.arange(10) * 2 + 1, False, [1, 3, 5, 7, 9], True),
        (torch.tensor([0] + [1] * 9), True, [1] * 5, False),
        (torch.tensor([0, 1] * 5), True, [1] * 5, False),
        (torch.tensor([True, False] * 5), True, [True] * 5, False),
        (torch.arange(10).float().softmax(0).half().float(), False, [0.2] * 5, False),
        (torch.tensor([3, 4] * 5), False, [4] * 5, False),
        (torch.tensor([0.5, 1.5] * 5), True, [1.0] * 5, False),
        (torch.tensor([-4.0, -2.0] * 5), False, [-3.0] * 5, False),
        (torch.tensor([float("nan"), 2.0] * 5), False, [2.0] * 5, False),
        (torch.tensor([float("-inf"), 0.0] * 5), False, [0.0] * 5, False),
    ],
    ids=[
        *(
            "zeros",
            "a constant",
            "equal priors",
            "equal log priors",
            "log priors",
            "class numbers",
            "a mask with 0 first",
        ),
        *("an integer mask", "a boolean mask", "priors"),
        *("counts", "deviations", "negative values", "not a number", "a mask over logits"),
    ],
)
def test_constants_are_extended_and_uncertain_values_are_named(
    values: Tensor, multiply: bool, expected: list[Any], is_certain: bool
) -> None:
    model = model_with(InClassSpace(values, multiply=multiply))
    swap, notes = notes_of(model)
    assert model[3].values.dtype == values.dtype
    torch.testing.assert_close(model[3].values, torch.tensor(expected, dtype=values.dtype))
    assert [note.partition(" ")[0] for note in notes] == ([] if is_certain else ["3.values"])
    swap.restore()
    assert model[3].values is values


def test_buffers_get_the_values_of_a_newly_built_layer() -> None:
    model = trained(model_with(RunningScale(10, start=3.0)))
    swap, notes = notes_of(model)
    assert swap.model[3].scale.tolist() == [3.0] * 5
    assert notes == []


def test_values_built_with_an_unknown_argument_are_named() -> None:
    class Forgetful(RunningScale):
        def __init__(self, num_classes: int, begin: float = 2.0) -> None:
            super().__init__(num_classes, begin)

    model = trained(model_with(Forgetful(10)))
    _, notes = notes_of(model)
    assert model[3].scale.tolist() == [2.0] * 5
    assert [note.partition(" ")[0] for note in notes] == ["3.scale"]


def test_values_passed_to_a_layer_are_not_replaced_by_its_default() -> None:
    class Weights(nn.Module):
        def __init__(self, num_classes: int = 10, weights: Tensor | None = None) -> None:
            super().__init__()
            self.num_classes = num_classes
            self.weights: Tensor
            self.register_buffer("weights", torch.zeros(num_classes) if weights is None else weights)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weights

    model = model_with(Weights(weights=torch.tensor([1.0, 3.0] * 5)))
    _, notes = notes_of(model)
    assert model[3].weights.tolist() == [2.0] * 5
    assert len(notes) == 1


def test_a_buffer_that_reset_parameters_skips_is_still_filled() -> None:
    class Biased(nn.Linear):
        def __init__(self) -> None:
            super().__init__(16, 10)
            self.prior: Tensor
            self.register_buffer("prior", torch.full((10,), 7.0))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.prior

    model = model_with(fc=Biased())
    notes_of(model)
    assert model[2].prior.tolist() == [7.0] * 5


def test_restore_works_if_reset_parameters_assigns_new_tensors() -> None:
    class Assigning(nn.BatchNorm1d):
        def reset_running_stats(self) -> None:
            self.running_mean = torch.zeros(self.num_features)
            self.running_var = torch.ones(self.num_features)

    model = trained(model_with(Assigning(10, affine=False)))
    variance = model[3].running_var
    swap, _ = notes_of(model)
    assert model[3].running_var.tolist() == [1.0] * 5
    new = model[3].running_var
    swap.restore()
    assert model[3].running_var is variance
    swap.reapply()
    assert model[3].running_var is new


def test_reset_parameters_is_not_called_if_it_would_change_the_backbone() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 16)
            self.weight = nn.Parameter(torch.randn(10, 16))

        def reset_parameters(self) -> None:
            self.body.reset_parameters()
            nn.init.zeros_(self.weight)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.body(x), self.weight)

    model = Whole()
    before = model.body.weight.detach().clone()
    swap_head(model, 5, X)
    assert torch.equal(model.body.weight, before)


def test_an_integer_buffer_of_anchors_times_classes_is_resized() -> None:
    class Anchors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_classes = 5
            self.fc = nn.Linear(8, 3 * 5)
            self.shift: Tensor
            self.register_buffer("shift", torch.arange(5).repeat(3))

        def forward(self, x: Tensor) -> Tensor:
            return (self.fc(x) + self.shift).view(-1, 3, self.num_classes)  # type: ignore[no-any-return]

    model = Anchors()
    swap, notes = notes_of(model, 2)
    assert swap.model.shift.tolist() == [0, 1] * 3
    assert notes == []


class Embedded(nn.Module):
    """Compare features with one fixed vector per class."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.classes: Tensor
        self.register_buffer("classes", torch.randn(10, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) @ self.classes.T  # type: ignore[no-any-return]


def test_fixed_class_vectors_are_refused_and_the_model_is_unchanged() -> None:
    model = Embedded()
    before = model.classes
    with pytest.raises(HeadSwapError, match="classes is the weight of the head but a buffer") as caught:
        swap_head(model, 5, X)
    assert caught.value.reason == "unsupported_layer"
    assert model.classes is before


def test_a_function_can_fill_fixed_class_vectors() -> None:
    model = Embedded()
    vectors = torch.randn(5, 16)
    _, notes = notes_of(model, init=lambda _, tensor: tensor.copy_(vectors))
    assert torch.equal(model.classes, vectors)
    assert notes == []


def test_an_init_function_does_not_receive_statistics() -> None:
    model = trained(model_with(nn.BatchNorm1d(10)))
    seen: list[str] = []

    def fill(name: str, tensor: Tensor) -> None:
        seen.append(name)
        nn.init.normal_(tensor)

    swap_head(model, 5, X, init=fill)
    assert sorted(seen) == ["2.bias", "2.weight", "3.bias", "3.weight"]
    assert model[3].running_var.tolist() == [1.0] * 5


@pytest.mark.parametrize("norm", [spectral_norm, parametrizations.spectral_norm], ids=["by hook", "parametrised"])
def test_the_spectral_norm_of_a_new_head_is_computed_immediately(norm: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    model = model_with(fc=norm(nn.Linear(16, 10)))
    _, notes = notes_of(model)
    model.eval()
    model(X)
    assert torch.linalg.matrix_norm(model[2].weight.detach(), 2) == pytest.approx(1, abs=0.05)
    assert notes == []


def test_class_map_copies_the_statistics_of_old_classes() -> None:
    model = trained(model_with(nn.BatchNorm1d(10)))
    old = model[3].running_var.clone()
    swap_head(model, 3, X, class_map={1: 7})
    assert model[3].running_var.tolist() == [1.0, float(old[7]), 1.0]


@pytest.mark.parametrize(
    "behind",
    [
        lambda: nn.BatchNorm1d(10, affine=False),
        lambda: RunningScale(10),
        lambda: InClassSpace(torch.rand(10)),
        lambda: InClassSpace(torch.rand(10).softmax(0)),
        lambda: InClassSpace(torch.randint(1, 9, (10,))),
    ],
    ids=["batch norm", "a user's statistics", "values", "priors", "counts"],
)
def test_buffers_of_a_new_head_are_never_random(behind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = trained(model_with(behind()))
    buffers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        swap, _ = notes_of(model)
        buffers.append({name: value.clone() for name, value in model.named_buffers()})
        swap.restore()
    assert all(torch.equal(buffers[0][name], buffers[1][name]) for name in buffers[0])
