"""A swap gives every class output the new count, and can be undone bit for bit."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap._links import DOCS
from pytest_headswap.engine import HeadSwapError, NoHeadError, plan_swap, swap_head
from pytest_headswap.engine.pytorch.inputs import read_inputs
from pytest_headswap.engine.pytorch.outputs import flatten_outputs
from pytest_headswap.zoo import load_zoo

WITH_HEAD = [name for name in load_zoo("builtin").names if name != "encoder_without_head"]


def built(name: str) -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    spec = load_zoo("builtin")[name]
    assert spec.example_inputs is not None
    model = spec.build()
    return model, spec.example_inputs(model), spec.head


@pytest.mark.parametrize("name", WITH_HEAD)
def test_real_outputs_have_the_new_count_in_both_modes(name: str) -> None:
    model, inputs, path = built(name)
    swap = swap_head(model, 7, inputs, head=path)
    for training in (True, False):
        outputs = dict(flatten_outputs(model.train(training)(inputs)))
        reached = [label for head in swap.heads for label in head.outputs if label in outputs]
        assert reached
        for head in swap.heads:
            for label in set(head.outputs) & outputs.keys():
                assert outputs[label].shape[head.class_dim] == 7
                assert torch.isfinite(outputs[label]).all()


@pytest.mark.parametrize("name", [n for n in WITH_HEAD if load_zoo("builtin")[n].build_native is not None])
def test_the_state_dict_equals_that_of_a_model_built_with_the_new_count(name: str) -> None:
    model, inputs, path = built(name)
    swap_head(model, 7, inputs, head=path)
    native = load_zoo("builtin")[name].build_native
    assert native is not None
    wanted = {key: (value.shape, value.dtype) for key, value in native(7).state_dict().items()}
    assert {key: (value.shape, value.dtype) for key, value in model.state_dict().items()} == wanted


@pytest.mark.parametrize("name", WITH_HEAD)
def test_restore_returns_the_same_tensors_and_outputs(name: str) -> None:
    model, inputs, path = built(name)
    model.eval()
    before = {key: (id(value), value.clone()) for key, value in (*model.named_parameters(), *model.named_buffers())}
    attributes = {path: dict(module.__dict__) for path, module in model.named_modules()}
    outputs = flatten_outputs(model(inputs))
    swap = swap_head(model, 7, inputs, head=path)
    swap.restore()
    after = dict((*model.named_parameters(), *model.named_buffers()))
    assert before.keys() == after.keys()
    for key, (identity, value) in before.items():
        assert id(after[key]) == identity
        assert torch.equal(after[key], value)
    for path_, module in model.named_modules():
        assert module.__dict__.keys() == attributes[path_].keys()
    for (label, old), (same, new) in zip(outputs, flatten_outputs(model(inputs)), strict=True):
        assert label == same
        assert torch.equal(old, new)


def test_a_second_restore_changes_nothing() -> None:
    model, inputs, _ = built("seed_simple_cnn")
    swap = swap_head(model, 7, inputs)
    swap.restore()
    model[6].bias.data.fill_(3.0)
    swap.restore()
    assert (model[6].bias == 3.0).all()


def test_the_backbone_keeps_its_tensor_objects() -> None:
    model, inputs, _ = built("residual")
    before = {name: id(value) for name, value in model.named_parameters()}
    swap = swap_head(model, 7, inputs)
    changed = {name for name, value in model.named_parameters() if before[name] != id(value)}
    assert changed == {"head.weight", "head.bias"} == {name for name, _ in swap.named_parameters()}


def test_swap_and_model_agree_on_the_new_parameters() -> None:
    model, inputs, _ = built("class_scale")
    swap = swap_head(model, 7, inputs)
    mine = dict(model.named_parameters())
    assert {name for name, _ in swap.named_parameters()} == {"fc.2.weight", "fc.2.bias", "scale"}
    assert all(mine[name] is value for name, value in swap.named_parameters())
    assert all(value.requires_grad for value in swap.parameters())


def test_new_parameters_of_a_frozen_model_can_be_trained() -> None:
    model, inputs, _ = built("frozen")
    swap = swap_head(model, 7, inputs)
    assert all(value.requires_grad for value in swap.parameters())
    assert sum(value.requires_grad for value in model.parameters()) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_new_head_has_the_dtype_of_the_old_one(dtype: torch.dtype) -> None:
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).to(dtype)
    swap = swap_head(model, 7, torch.randn(2, 8, dtype=dtype))
    assert {value.dtype for value in swap.parameters()} == {dtype}


def test_the_head_added_to_a_headless_model_has_the_dtype_of_the_backbone() -> None:
    model, inputs, _ = built("headless")
    model.half()
    swap = swap_head(model, 7, inputs.half())
    assert {value.dtype for value in swap.parameters()} == {torch.float16}


def test_a_model_on_meta_stays_on_meta() -> None:
    with torch.device("meta"):
        model: Any = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    swap = swap_head(model, 7, torch.randn(2, 8))
    assert all(value.is_meta for value in swap.parameters())


@pytest.mark.parametrize("name", WITH_HEAD)
def test_a_new_head_is_finite_and_not_all_zero(name: str) -> None:
    model, inputs, path = built(name)
    swap = swap_head(model, 7, inputs, head=path)
    for key, value in swap.named_parameters():
        assert torch.isfinite(value).all(), key
    assert any(value.any() for value in swap.parameters())


def test_geometry_hooks_and_class_of_the_layer_are_kept() -> None:
    class Conv(nn.Conv2d):
        pass

    seen: list[torch.Size] = []
    layer = Conv(4, 6, 3, stride=2, padding=1, dilation=1, bias=False)
    layer.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 1), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    swap_head(model, 9, torch.randn(2, 3, 8, 8))
    seen.clear()
    assert model(torch.randn(1, 3, 8, 8)).shape == (1, 9)
    assert seen == [(1, 9, 4, 4)]
    assert model[1] is layer
    assert (layer.stride, layer.padding, layer.bias, layer.out_channels) == ((2, 2), (1, 1), None, 9)


def test_counts_that_the_model_stores_are_updated_and_restored() -> None:
    model, inputs, _ = built("distilled")
    swap = swap_head(model, 7, inputs)
    assert (model.num_classes, model.head.out_features, model.head_dist.out_features) == (7, 7, 7)
    swap.restore()
    assert (model.num_classes, model.head.out_features, model.head_dist.out_features) == (10, 10, 10)


def test_a_square_head_keeps_its_input_width() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 10))
    swap_head(model, 4, torch.randn(2, 8))
    assert (model[2].in_features, model[2].out_features) == (10, 4)
    assert model[0].out_features == 10


def test_equal_values_are_not_mistaken_for_shared_parameters() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 10), nn.Linear(10, 10))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    backbone = model[0].bias
    swap_head(model, 4, torch.randn(2, 8))
    assert model[0].bias is backbone
    assert model[1].bias.shape == (4,)


def test_a_shared_head_weight_stays_shared() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 16)
            self.a, self.b = nn.Linear(16, 5), nn.Linear(16, 5)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return self.a(x) + self.b(x.relu())  # type: ignore[no-any-return]

    model: Any = Tied()
    swap = swap_head(model, 3, torch.randn(2, 8))
    assert model.a.weight is model.b.weight
    assert model.a.weight.shape == (3, 16)
    assert {name for name, _ in swap.named_parameters()} == {"a.weight", "a.bias", "b.bias"}


def test_only_the_requested_head_is_swapped() -> None:
    model, inputs, _ = built("seed_two_heads")
    other = model.head2.weight
    swap_head(model, 3, inputs, head="head1")
    first, second = model(inputs)
    assert (first.shape, second.shape) == ((2, 3), (2, 2))
    assert model.head2.weight is other


def test_several_heads_with_different_counts_are_ambiguous() -> None:
    model, inputs, _ = built("seed_two_heads")
    with pytest.raises(HeadSwapError, match=r"'head1' .5 classes., 'head2' .2 classes.") as caught:
        swap_head(model, 3, inputs)
    assert caught.value.reason == "ambiguous"


def test_the_declared_count_decides_between_heads_of_different_counts() -> None:
    model, inputs, _ = built("seed_two_heads")
    model.num_classes = 2
    assert [head.path for head in swap_head(model, 3, inputs).heads] == ["head2"]


def test_the_error_for_an_unknown_head_lists_the_existing_ones() -> None:
    model, inputs, _ = built("seed_two_heads")
    with pytest.raises(HeadSwapError, match=r"no head at 'fc'.*'head1'") as caught:
        swap_head(model, 3, inputs, head="fc")
    assert caught.value.reason == "unknown_head"


@pytest.mark.parametrize("count", [-1, True, "7", 7.0, None])
def test_an_invalid_class_count_is_refused(count: Any) -> None:
    model, inputs, _ = built("seed_simple_cnn")
    with pytest.raises(HeadSwapError, match="num_classes must be a whole number") as caught:
        swap_head(model, count, inputs)
    assert caught.value.reason == "bad_num_classes"
    assert model(inputs).shape == (2, 10)


def test_a_model_that_is_not_a_module_is_refused() -> None:
    with pytest.raises(HeadSwapError, match=r"must be a torch.nn.Module, not function") as caught:
        swap_head(lambda x: x, 3, torch.randn(2, 8))  # type: ignore[arg-type]
    assert caught.value.reason == "not_a_module"


@pytest.mark.parametrize("inputs", ["text", 3, (), {}, {1: 2}, object()])
def test_inputs_without_a_tensor_are_refused(inputs: Any) -> None:
    model, _, _ = built("seed_simple_cnn")
    with pytest.raises(HeadSwapError) as caught:
        swap_head(model, 3, inputs)
    assert caught.value.reason == "bad_inputs"


def test_the_error_for_inputs_of_the_wrong_shape_names_the_shape() -> None:
    model, _, _ = built("seed_simple_cnn")
    with pytest.raises(HeadSwapError, match=r"Sequential.forward raised RuntimeError.*\(2, 5\)") as caught:
        swap_head(model, 3, torch.randn(2, 5))
    assert caught.value.reason == "forward_failed"
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_swap_is_undone_if_the_outputs_keep_the_old_count() -> None:
    class Stubborn(nn.Module):
        """Reshape the logits to a width that is written into forward."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x).reshape(-1, 5)  # type: ignore[no-any-return]

    model: Any = Stubborn()
    weight = model.fc.weight
    with pytest.raises(HeadSwapError) as caught:
        swap_head(model, 3, torch.randn(2, 8))
    assert caught.value.reason == "verification_failed"
    assert "The old class count (5) is written into forward at 'test_swap.py:" in caught.value.message
    assert ".reshape(-1, 5)" in caught.value.message
    assert model.fc.weight is weight
    assert model.fc.out_features == 5


def test_swapping_to_the_same_count_gives_a_new_head() -> None:
    model, inputs, _ = built("seed_simple_cnn")
    old = model[6].weight
    swap_head(model, 10, inputs)
    assert model[6].weight is not old


def test_a_swapped_model_can_be_swapped_copied_and_pickled() -> None:
    model, inputs, _ = built("headless")
    swap_head(model, 7, inputs)
    model = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert [head.kind for head in swap_head(model, 3, inputs).heads] == ["linear"]
    assert model(inputs).shape == (2, 3)


def test_inputs_can_be_a_tuple_or_keywords() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 5)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.fc(a + b)  # type: ignore[no-any-return]

    x = torch.randn(2, 8)
    assert swap_head(Two(), 3, (x, x)).heads[0].num_classes == 3
    assert swap_head(Two(), 3, {"a": x, "b": x}).heads[0].num_classes == 3


def test_errors_survive_pickling() -> None:
    error = NoHeadError("output_is_backbone", "features", ["stem: a layer"])
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.reason, again.message, again.rejected) == (
        NoHeadError,
        "output_is_backbone",
        "[output_is_backbone] features",
        ("stem: a layer",),
    )
    assert str(again) == str(error)


def test_the_text_of_an_error_ends_with_a_link_to_its_explanation() -> None:
    error = HeadSwapError("no_inputs", "pass example_inputs")
    assert str(error) == f"[no_inputs] pass example_inputs\nSee {DOCS}errors/#no_inputs"
    assert DOCS not in error.message


def test_a_tensor_of_two_heads_in_one_module_is_trained_once() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(8, 10)), nn.Parameter(torch.randn(8, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.a + x.tanh() @ self.b

    swap = swap_head(Sum(), 5, torch.randn(4, 8))
    assert sorted(name for name, _ in swap.named_parameters()) == ["a", "b"]


def test_a_copied_plan_lists_the_references_of_its_own_model() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))
    model.watched = [model[2].weight]
    plan = plan_swap(model, read_inputs(torch.zeros(4, 8)))
    assert plan.tensor_references
    copied = copy.deepcopy(plan)
    assert "tensor_references" not in vars(copied)
    own: Any = copied.model
    assert own.watched[0] is own.get_parameter("2.weight")
