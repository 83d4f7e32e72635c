"""A swap is refused if a new layer does not run, is not finite, or cannot learn, although the abstract run passed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, apply_plan, plan_swap, swap_head
from pytest_headswap.engine.pytorch.inputs import read_inputs

X = torch.randn(4, 8)
IMAGES = torch.randn(2, 3, 8, 8)


def grouped(groups: int, classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, classes, 1, groups=groups),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def refusal(model: nn.Module, count: int, inputs: Tensor = X, **options: Any) -> HeadSwapError:
    before = {name: value.clone() for name, value in model.state_dict().items() if not value.is_meta}
    with pytest.raises(HeadSwapError) as caught:
        swap_head(model, count, inputs, **options)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert caught.value.reason == "verification_failed"
    return caught.value


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_class_count_that_groups_do_not_divide_is_refused(device: str) -> None:
    error = refusal(grouped(2).to(device), 5, IMAGES.to(device))
    assert "2 (Conv2d) raises RuntimeError with the new class count" in error.message
    assert "Choose a class count that the layer accepts" in error.message
    model = grouped(2).to(device)
    swap_head(model, 4, IMAGES.to(device))
    assert model(IMAGES.to(device)).shape == (2, 4)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_class_count_that_a_group_norm_after_the_head_does_not_divide_is_refused(device: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 1), nn.GroupNorm(5, 10)).to(device)
    assert "divisible" in refusal(model, 4, IMAGES.to(device)).message
    swap_head(model, 15, IMAGES.to(device))
    assert model(IMAGES.to(device)).shape == (2, 15, 6, 6)


class Demanding(nn.Linear):
    """A layer whose constraint only real values show."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if not y.is_meta and y.shape[-1] % 2:
            raise ValueError("an even number of classes, please")
        return y


def test_a_constraint_of_a_custom_layer_is_found() -> None:
    model = nn.Sequential(nn.Linear(8, 16), Demanding(16, 10))
    assert "an even number of classes, please" in refusal(model, 5).message
    swap_head(model, 6, X)


def test_a_new_head_that_does_not_run_is_named_with_its_error() -> None:
    """Its tensors have other names than those of the old head."""
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 10))
    assert "1.0 (Demanding) raises ValueError" in refusal(model, 5, new_head=nn.Sequential(Demanding(16, 5))).message


def test_values_that_are_not_finite_are_refused() -> None:
    def endless(_: str, tensor: Tensor) -> None:
        tensor.fill_(float("inf"))

    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 10))
    assert "1 (Linear) returns values that are not finite" in refusal(model, 5, init=endless).message


class Masked(nn.Module):
    """A layer whose mask is part of it, and which the new class count empties."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Parameter(torch.randn(10, 16))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.fc * (1.0 if len(self.fc) > 5 else 0.0)
        return nn.functional.linear(x, weight)


def test_a_gradient_that_is_always_0_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 16), Masked())
    assert "gives 1.fc a gradient of 0, so training would have no effect" in refusal(model, 5).message
    swap_head(model, 6, X)


class Gained(nn.Module):
    """The gradient of the weight is 0 only until the gain is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gain = nn.Parameter(torch.randn(16, 10)), nn.Parameter(torch.ones(10))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight * self.gain


def test_a_gradient_that_is_0_only_before_the_first_step_is_accepted() -> None:
    def start(name: str, tensor: Tensor) -> None:
        nn.init.constant_(tensor, 0.0 if name.endswith("gain") else 1.0)

    model = nn.Sequential(nn.Linear(8, 16), Gained())
    swap_head(model, 5, X, init=start)
    assert model(X).shape == (4, 5)


class OwnParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.kernel = nn.Parameter(torch.randn(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x) @ self.kernel
        if not y.is_meta and y.shape[-1] < 4:
            raise ValueError("four classes at least")
        return y


def test_a_small_model_that_owns_its_kernel_is_run_as_a_whole() -> None:
    assert "the model (OwnParameter) raises ValueError" in refusal(OwnParameter(), 3).message
    swap_head(OwnParameter(), 4, X)


def test_a_fault_that_the_old_layer_has_too_does_not_count() -> None:
    class Picky(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if not x.is_meta:
                raise ValueError("not on this device")
            return super().forward(x)

    model = nn.Sequential(nn.Linear(8, 16), Picky(16, 10))
    swap_head(model, 5, X)
    assert model[1].weight.shape == (5, 16)


class _NoBackward(torch.autograd.Function):
    """The identity, on a device that lacks the kernel of its gradient for some sizes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lacking: range) -> Tensor:
        ctx.lacking = lacking
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        if gradient.shape[-1] in ctx.lacking:
            raise NotImplementedError("no kernel for this gradient")
        return gradient, None


class WithoutGradient(nn.Linear):
    """A layer whose backward pass fails for some class counts."""

    lacking = range(0)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if y.is_meta else _NoBackward.apply(y, self.lacking)  # type: ignore[no-any-return, no-untyped-call, unused-ignore]


@pytest.mark.parametrize("lacking", [range(5, 6), range(5, 11)])
def test_a_layer_without_a_gradient_is_refused_unless_the_old_one_lacks_it_too(lacking: range) -> None:
    head: nn.Module = type("Head", (WithoutGradient,), {"lacking": lacking})(16, 10)
    model = nn.Sequential(nn.Linear(8, 16), head)
    if len(lacking) > 1:
        assert swap_head(model, 5, X).heads[0].path == "1"
    else:
        assert "1 (Head) raises NotImplementedError" in refusal(model, 5).message


def test_running_the_layers_leaves_no_trace() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 10), nn.BatchNorm1d(10), nn.Dropout())
    model.train()
    model(X)
    plan = plan_swap(model, read_inputs(X))
    drawn = []
    for verify in (True, False):
        torch.manual_seed(3)
        swap = apply_plan(plan, 5, verify=verify)
        drawn.append(torch.rand(3))
        assert model[2].num_batches_tracked == 0
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
        assert model.training
        swap.restore()
    assert torch.equal(*drawn)
