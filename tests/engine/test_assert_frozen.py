"""`assert_frozen` accepts a right freeze, whoever made it, and names what is wrong with any other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_headswap.engine import HeadSwapError, NoHeadError, assert_frozen, freeze_backbone, swap_head


class Net(nn.Module):
    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.body = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5))
        self.register_buffer("average", torch.zeros(16))
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.body(self.stem(x))))  # type: ignore[no-any-return]


def batch(size: int = 6) -> Tensor:
    return torch.randn(size, 8, generator=torch.Generator().manual_seed(size))


def stay_in_eval(module: nn.Module) -> nn.Module:
    """Keep a module in eval mode the way people do without this package."""
    module.eval()
    module.train = lambda mode=True: module  # type: ignore[method-assign]
    return module


def frozen_by_hand(model: Any = None) -> Any:
    """Return a model that is rightly frozen, without this package."""
    model = model or Net()
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    stay_in_eval(model.body)
    stay_in_eval(model.drop)
    return model


def state_of(model: nn.Module) -> Any:
    return (
        [(module.training, sorted(vars(module))) for module in model.modules()],
        [(name, value.requires_grad, value.grad) for name, value in model.named_parameters()],
        {name: value.clone() for name, value in model.state_dict().items()},
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    optimizer.zero_grad()
    (model(batch()) ** 2).mean().backward()
    optimizer.step()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)


# --- right freezes


def by_hand_and_wrapped() -> Any:
    return nn.DataParallel(frozen_by_hand())


def by_this_package() -> Any:
    model = Net()
    freeze_backbone(swap_head(model, 5, batch()))
    return model


def with_an_unfrozen_stage() -> Any:
    model = Net()
    freeze_backbone(swap_head(model, 5, batch())).unfreeze("body", "drop")
    return model


def with_a_kept_bias() -> Any:
    model = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 64), nn.Dropout(), nn.Linear(64, 10)).requires_grad_(False)
    model[0].bias.requires_grad_(True)
    with pytest.warns(UserWarning, match="stay trainable"):
        freeze_backbone(model, batch())
    return model


def in_bfloat16() -> Any:
    return by_this_package().to(torch.bfloat16)


@pytest.mark.parametrize(
    "build",
    [frozen_by_hand, by_hand_and_wrapped, by_this_package, with_an_unfrozen_stage, with_a_kept_bias],
)
def test_a_right_freeze_passes_before_and_after_training_and_leaves_no_trace(build: Callable[[], Any]) -> None:
    model = build()
    before = state_of(model)
    with assert_frozen(model, batch()):
        after = state_of(model)
        assert after[:2] == before[:2]
        assert all(torch.equal(value, after[2][name]) for name, value in before[2].items())
        optimizer = sgd(model)
        step(model, optimizer)
        step(model, optimizer)


def test_inputs_are_inferred_and_may_be_a_single_sample() -> None:
    assert_frozen(frozen_by_hand())
    assert_frozen(frozen_by_hand(), batch(1))
    assert_frozen(in_bfloat16(), batch().to(torch.bfloat16))
    with torch.device("meta"):
        model = frozen_by_hand()
    assert_frozen(model, batch())


def test_a_frozen_model_of_timm_passes_and_its_naive_freeze_does_not() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", num_classes=5)
    frozen = freeze_backbone(model)
    with assert_frozen(model):
        step_on(model)
    frozen.unfreeze()
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    with pytest.raises(
        AssertionError, match=r"batch statistics in train mode, .*: conv1\.1, conv1\.4, bn1, .* and \d+ more"
    ):
        assert_frozen(model)


def step_on(model: nn.Module) -> None:
    model.train()
    model(torch.randn(2, 3, 32, 32)).mean().backward()


# --- planted faults that show before training


def one_unfrozen_layer(model: Any) -> None:
    model.stem.requires_grad_(True)


def one_unfrozen_bias(model: Any) -> None:
    model.body[0].bias.requires_grad_(True)


def drifting_statistics(model: Any) -> None:
    del model.body.__dict__["train"]
    stay_in_eval(model.body[3])


def only_set_to_eval(model: Any) -> None:
    del model.body.__dict__["train"]
    model.eval()


def dropout_awake(model: Any) -> None:
    del model.drop.__dict__["train"]


def old_gradients(model: Any) -> None:
    model.stem.weight.grad = torch.zeros(16, 8)


class Changed(nn.Module):
    """A layer that changes its input by a function of the layer and the input."""

    def __init__(self, change: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change
        self.register_buffer("average", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self, x)


def update_average(layer: Any, x: Tensor) -> Tensor:
    if layer.training:
        layer.average.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
    return x - layer.average  # type: ignore[no-any-return]


def changes(function: Callable[[Any, Tensor], Tensor]) -> Callable[[Any], None]:
    def plant(model: Any) -> None:
        model.body = nn.Sequential(model.body, Changed(function))
        stay_in_eval(model.body[0])

    plant.__name__ = function.__name__
    return plant


def noise(layer: Any, x: Tensor) -> Tensor:
    return x + torch.randn_like(x) if layer.training else x


def noise_in_eval_mode_too(_: Any, x: Tensor) -> Tensor:
    return functional.dropout(x, 0.1)


def batch_mean(layer: Any, x: Tensor) -> Tensor:
    return x - x.mean(0) if layer.training else x


def assigned_buffer(layer: Any, x: Tensor) -> Tensor:
    if layer.training:
        layer.average = layer.average + x.detach().mean(0)
    return x


FAULTS: list[tuple[Callable[[Any], None], str]] = [
    (one_unfrozen_layer, r"frozen parameters require gradients: stem\.weight, stem\.bias\."),
    (one_unfrozen_bias, r"frozen parameters require gradients: body\.0\.bias\."),
    (drifting_statistics, r"writes to body\.1\.num_batches_tracked in train mode: keep body\.1 in eval mode"),
    (
        drifting_statistics,
        r"these use and update batch statistics in train mode, .* eval mode through every train\(\): body\.1",
    ),
    (only_set_to_eval, r"batch statistics in train mode, .*: body\.1"),
    (only_set_to_eval, r"these draw random numbers in train mode, .*: .*body\.3"),
    (dropout_awake, r"these draw random numbers in train mode, .*: .*drop"),
    (old_gradients, r"frozen parameters hold old gradients, which an optimizer would apply: stem\.weight\."),
    (changes(update_average), r"forward writes to body\.1\.average in train mode"),
    (changes(assigned_buffer), r"forward writes to body\.1\.average in train mode"),
    (changes(noise), r"these draw random numbers in train mode, .*: .*body\.1"),
    (changes(noise_in_eval_mode_too), r"these draw random numbers in train mode, .*: .*body\.1"),
    (changes(batch_mean), r"in body\.1 combines the samples of a batch"),
]


@pytest.mark.parametrize(("plant", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_freeze_is_named_with_its_module(plant: Callable[[Any], None], message: str) -> None:
    model = frozen_by_hand()
    plant(model)
    before = state_of(model)
    with pytest.raises(AssertionError, match=message) as caught:
        assert_frozen(model, batch())
    assert "Net is not frozen:\n- " in str(caught.value)
    assert state_of(model)[:2] == before[:2]


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_frozen(Net(), batch())
    text = str(caught.value)
    assert all(part in text for part in ("frozen parameters", "num_batches", "statistics", "body.3, drop"))


# --- planted faults that only training shows


def weight_decay_with_old_gradients(model: Any, optimizer: Any) -> None:
    model.stem.weight.grad = torch.zeros(16, 8)
    optimizer.step()
    model.stem.weight.grad = None


def moving_average_of_weights(model: Any, _: Any) -> None:
    with torch.no_grad():
        model.average.lerp_(model.fc.weight[0], 0.1)


def write_through_data(model: Any, _: Any) -> None:
    model.stem.bias.data[0] += 1


def reset(model: Any, _: Any) -> None:
    torch.optim.swa_utils.update_bn([batch()], model)


def parameter_is_gone(model: Any, _: Any) -> None:
    model.stem.bias = None


def unfrozen(model: Any, _: Any) -> None:
    model.stem.requires_grad_(True)


def train_within(model: Any, change: Callable[[Any, Any], None]) -> None:
    optimizer = sgd(model)
    with assert_frozen(model, batch()):
        step(model, optimizer)
        change(model, optimizer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (weight_decay_with_old_gradients, r"stem\.weight has changed: do not pass it to the optimizer"),
        (moving_average_of_weights, r"average has changed: keep the model in eval mode"),
        (write_through_data, r"stem\.bias has changed"),
        (reset, r"body\.1\.running_mean has changed: keep body\.1 in eval mode"),
        (parameter_is_gone, r"stem\.bias is gone"),
        (unfrozen, r"frozen parameters require gradients: stem\.weight, stem\.bias\."),
    ],
)
def test_what_moved_in_a_training_loop_is_named(change: Callable[[Any, Any], None], message: str) -> None:
    model = frozen_by_hand()
    model.average += 1
    model.body[1].running_mean += 1
    with pytest.raises(AssertionError, match=message) as caught:
        train_within(model, change)
    assert "Net did not stay frozen:\n- " in str(caught.value)


def test_an_exception_of_the_loop_takes_precedence() -> None:
    def fail(model: Any, _: Any) -> None:
        write_through_data(model, None)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train_within(frozen_by_hand(), fail)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64, torch.int8, torch.bool])
def test_a_change_of_one_element_is_seen_in_any_dtype(dtype: torch.dtype) -> None:
    model = frozen_by_hand()
    model.register_buffer("other", torch.zeros(3, 2, dtype=dtype).t())
    with assert_frozen(model, batch()):
        pass
    with pytest.raises(AssertionError, match="other has changed"), assert_frozen(model, batch()):
        model.other[1, 2] = 1


# --- what may train


@pytest.mark.parametrize(
    "trainable",
    ["fc", ["fc"], ["fc.weight", "fc.bias"], "fc*", ["f?"], ("fc.*",), {"fc"}, ["module.fc"]],
    ids=str,
)
def test_what_may_train_is_given_by_paths_names_and_globs(trainable: Any) -> None:
    model: Any = nn.DataParallel(frozen_by_hand()) if trainable == ["module.fc"] else frozen_by_hand()
    with assert_frozen(model, batch(), trainable=trainable):
        step(model, sgd(model))


def test_what_may_train_is_given_by_parameters() -> None:
    model = frozen_by_hand()
    assert_frozen(model, batch(), trainable=model.fc.parameters())
    assert_frozen(model, batch(), trainable=[model.fc.weight, "fc.bias"])
    with pytest.raises(AssertionError, match=r"frozen parameters require gradients: fc\.bias\."):
        assert_frozen(model, batch(), trainable=model.fc.weight)


def test_a_stage_that_may_train_may_draw_and_write_and_what_is_before_it_may_not() -> None:
    model = Net()
    for name, value in model.named_parameters():
        value.requires_grad = not name.startswith("stem")
    with assert_frozen(model, batch(), trainable=["body", "drop", "fc"]):
        step(model, sgd(model))
    model.stem = nn.Sequential(nn.Linear(8, 16), nn.Dropout()).requires_grad_(False)  # type: ignore[assignment]
    with pytest.raises(AssertionError, match=r"these draw random numbers in train mode, .*: .*stem\.1"):
        assert_frozen(model, batch(), trainable=["body", "drop", "fc"])


def test_adapters_that_somebody_else_made_are_allowed_by_a_glob() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 10)).requires_grad_(False)
    model[1] = nn.ModuleDict({"base": model[1], "lora_drop": nn.Dropout(), "lora_a": nn.Linear(16, 2)})
    model[1].forward = lambda x: model[1]["base"](x) + model[1]["lora_a"](model[1]["lora_drop"](x)).sum(1, True)
    model[2].requires_grad_(True)
    with pytest.raises(AssertionError, match=r"1\.lora_a\.weight, 1\.lora_a\.bias"):
        assert_frozen(model, batch())
    with assert_frozen(model, batch(), trainable=["2", "*lora_*"]):
        step(model, sgd(model))


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        ("fcc", r"names nothing in the model: 'fcc': did you mean fc"),
        (["fc", "*nothing*"], r"names nothing in the model: '\*nothing\*'"),
        (5, "must be paths, globs or parameters, not int"),
        ({"fc": 1}, "not dict"),
        (torch.ones(3), "not Tensor"),
        ([None], "holds a NoneType"),
        ([nn.Linear(2, 2)], "holds a Linear: pass its path"),
        ([nn.Parameter(torch.ones(3))], r"a parameter of shape \(3,\)"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bad_arguments_raise(trainable: Any, message: str) -> None:
    with pytest.raises(HeadSwapError, match=message) as caught:
        assert_frozen(frozen_by_hand(), batch(), trainable=trainable)
    assert caught.value.reason == "bad_argument"


def test_a_model_without_a_head_needs_to_be_told_what_may_train() -> None:
    with pytest.raises(NoHeadError):
        assert_frozen(nn.Sequential(nn.ReLU()), batch())
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU()).requires_grad_(False)
    model[0].bias.requires_grad_(True)
    assert_frozen(model, batch(), trainable="0.bias")
    with pytest.raises(HeadSwapError, match=r"must be a torch\.nn\.Module"):
        assert_frozen("model", batch())  # type: ignore[arg-type]


def test_an_empty_selection_means_that_nothing_may_train() -> None:
    model = copy.deepcopy(Net()).requires_grad_(False)
    stay_in_eval(model)
    assert_frozen(model, batch(), trainable=[])
    model.fc.requires_grad_(True)
    with pytest.raises(AssertionError, match=r"fc\.weight, fc\.bias"):
        assert_frozen(model, batch(), trainable=[])
