"""In random models, the engine finds, swaps and restores exactly the planted heads."""

from __future__ import annotations

import random
import warnings
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from conformance.cross_check import compare
from pytest_headswap import REASONS, HeadSwapError, HeadSwapWarning, ModelSpec, Swap, find_heads, swap_head
from pytest_headswap.strategies import PlantedModel, planted_models

relaxed = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def snapshot(model: torch.nn.Module) -> dict[str, Any]:
    tensors = {
        key: (id(value), value.clone(), value.requires_grad)
        for key, value in [*model.named_parameters(), *model.named_buffers()]
    }
    attributes = {path: {k: id(v) for k, v in module.__dict__.items()} for path, module in model.named_modules()}
    modes = {path: module.training for path, module in model.named_modules()}
    return {
        "tensors": tensors,
        "attributes": attributes,
        "modes": modes,
        "rng": torch.get_rng_state().clone(),
        "python": random.getstate(),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before["attributes"] == after["attributes"]
    assert before["modes"] == after["modes"]
    assert torch.equal(before["rng"], after["rng"])
    assert before["python"] == after["python"]
    assert before["tensors"].keys() == after["tensors"].keys()
    for name, (identity, value, flag) in before["tensors"].items():
        assert after["tensors"][name][0] == identity, name
        assert torch.equal(after["tensors"][name][1], value), name
        assert after["tensors"][name][2] == flag, name


def run(planted: PlantedModel, training: bool) -> list[torch.Tensor]:
    """Run the model for real, and return its class outputs."""
    outputs = planted.class_outputs(planted.model.train(training)(planted.example_inputs))
    assert outputs
    assert not any(output.is_meta for output in outputs)
    return outputs


def swapped(planted: PlantedModel, count: int, **options: Any) -> Swap:
    """Swap the head of a model that can be swapped."""
    assume(not planted.refusal)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadSwapWarning)
        return swap_head(planted.model, count, planted.example_inputs, **options)


@relaxed
@given(planted_models())
def test_exactly_the_planted_heads_are_found_and_nothing_is_changed(planted: PlantedModel) -> None:
    before = snapshot(planted.model)
    heads = find_heads(planted.model, planted.example_inputs)
    assert {name for head in heads for name in (head.path, *head.aliases)} >= planted.heads
    assert len(heads) == len(planted.heads)
    assert {head.num_classes for head in heads} == {planted.num_classes}
    assert_same(before, snapshot(planted.model))
    for training in (True, False):
        run(planted, training)


@relaxed
@given(planted_models())
def test_heads_name_exactly_the_tensors_that_depend_on_the_class_count(planted: PlantedModel) -> None:
    result = compare(
        ModelSpec(
            "planted",
            lambda: planted.model,
            example_inputs=lambda _: planted.example_inputs,
            build_native=planted.build_native,
        )
    )
    assert not result.error
    assert not result.differences


@relaxed
@given(planted_models(), st.integers(1, 15))
def test_model_without_one_right_answer_is_refused_and_unchanged(planted: PlantedModel, count: int) -> None:
    assume(planted.refusal)
    before = snapshot(planted.model)
    with pytest.raises(HeadSwapError) as refused:
        swap_head(planted.model, count, planted.example_inputs)
    assert refused.value.reason == planted.refusal
    assert planted.refusal in REASONS
    assert_same(before, snapshot(planted.model))


@relaxed
@given(planted_models(), st.integers(1, 15))
def test_every_class_output_is_resized_and_trains_the_new_head(planted: PlantedModel, count: int) -> None:
    before = {training: [output.shape for output in run(planted, training)] for training in (True, False)}
    swap = swapped(planted, count)
    for training in (False, True):
        outputs = run(planted, training)
        assert [output.shape for output in outputs] == [(*shape[:-1], count) for shape in before[training]]
        assert count == 1 or all(output.isfinite().all() for output in outputs)
    torch.stack([(output * torch.rand_like(output)).sum() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    assert [name for name, parameter in swap.named_parameters() if parameter.grad is None] == []


@relaxed
@given(planted_models(), st.integers(1, 15))
def test_swapped_model_has_the_tensors_and_numbers_of_a_native_one(planted: PlantedModel, count: int) -> None:
    swap = swapped(planted, count)
    native = planted.build_native(count)
    assert {name: tensor.shape for name, tensor in tensors(planted.model)} == {
        name: tensor.shape for name, tensor in tensors(native)
    }
    new = swap.state_dict().keys()
    others = {size for name, tensor in tensors(planted.model) if name not in new for size in tensor.shape}
    for path, module in native.named_modules():
        mine = planted.model.get_submodule(path)
        assert type(mine).__name__ == type(module).__name__  # parametrizations make a class for each layer
        different = [name for name, number in numbers(module).items() if numbers(mine)[name] != number]
        unnamed = [name for name in different if name not in " ".join(swap.notes)]
        assert unnamed == [] or planted.num_classes in others, path


def tensors(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def numbers(module: torch.nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if isinstance(value, (int, tuple)) and name[0] != "_"}


@relaxed
@given(planted_models(), st.integers(1, 15))
def test_features_before_the_head_are_the_same_after_a_swap(planted: PlantedModel, count: int) -> None:
    model = planted.model.eval()
    before = model.get_submodule("backbone")(planted.example_inputs)
    swapped(planted, count)
    assert torch.equal(model.get_submodule("backbone")(planted.example_inputs), before)


@relaxed
@given(planted_models())
def test_map_of_every_class_to_itself_leaves_the_outputs_as_they_were(planted: PlantedModel) -> None:
    before = run(planted, training=False)
    swapped(planted, planted.num_classes, class_map=range(planted.num_classes))
    for output, expected in zip(run(planted, training=False), before, strict=True):
        assert torch.allclose(output, expected, atol=1e-6)


@relaxed
@given(planted_models(), st.integers(1, 15))
def test_dropping_the_activation_leaves_the_features_alone_or_is_refused(planted: PlantedModel, count: int) -> None:
    model = planted.model.eval()
    before = model.get_submodule("backbone")(planted.example_inputs)
    with suppress(HeadSwapError):
        swapped(planted, count, activation="drop")
    assert torch.equal(model.get_submodule("backbone")(planted.example_inputs), before)


@relaxed
@given(planted_models(), st.integers(1, 15))
def test_restoring_is_the_identity(planted: PlantedModel, count: int) -> None:
    before = snapshot(planted.model)
    with torch.random.fork_rng():  # the new head draws from the generator, which a snapshot includes
        swap = swapped(planted, count)
    swap.restore()
    assert_same(before, snapshot(planted.model))


@relaxed
@given(planted_models())
def test_every_tensor_outside_the_new_head_is_the_same_object(planted: PlantedModel) -> None:
    before = {name: id(value) for name, value in tensors(planted.model)}
    swap = swapped(planted, 5)
    after = dict(tensors(planted.model))
    new = {id(value) for name, value in after.items() if name in swap.state_dict()}
    assert new
    for name, value in after.items():
        assert (id(value) != before[name]) == (id(value) in new), name
