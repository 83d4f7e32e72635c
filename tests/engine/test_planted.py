"""In random models, the engine finds, swaps and restores exactly the planted heads."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_headswap.engine import find_heads, swap_head
from pytest_headswap.engine.pytorch.outputs import flatten_outputs
from pytest_headswap.strategies import PlantedModel, planted_models

relaxed = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def snapshot(model: torch.nn.Module) -> dict[str, Any]:
    tensors = {
        key: (id(value), value.clone(), value.requires_grad) for key, value in model.state_dict(keep_vars=True).items()
    }
    attributes = {path: {k: id(v) for k, v in module.__dict__.items()} for path, module in model.named_modules()}
    return {"tensors": tensors, "attributes": attributes, "rng": torch.get_rng_state().clone()}


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before["attributes"] == after["attributes"]
    assert torch.equal(before["rng"], after["rng"])
    assert before["tensors"].keys() == after["tensors"].keys()
    for name, (identity, value, flag) in before["tensors"].items():
        assert after["tensors"][name][0] == identity, name
        assert torch.equal(after["tensors"][name][1], value), name
        assert after["tensors"][name][2] == flag, name


@relaxed
@given(planted_models())
def test_exactly_the_planted_heads_are_found_and_nothing_is_changed(planted: PlantedModel) -> None:
    before = snapshot(planted.model)
    heads = find_heads(planted.model, planted.example_inputs)
    assert {name for head in heads for name in (head.path, *head.aliases)} >= planted.heads
    assert len(heads) == len(planted.heads)
    assert {head.num_classes for head in heads} == {planted.num_classes}
    assert_same(before, snapshot(planted.model))


@relaxed
@given(planted_models(), st.integers(1, 15))
def test_every_class_output_is_resized_and_no_other_is(planted: PlantedModel, count: int) -> None:
    model, inputs = planted.model, planted.example_inputs
    shapes = {}
    for training in (True, False):
        shapes[training] = {label: tuple(t.shape) for label, t in flatten_outputs(model.train(training)(inputs))}
    swap = swap_head(model, count, inputs)
    labels = {label for head in swap.heads for label in head.outputs}
    for training in (True, False):
        for label, tensor in flatten_outputs(model.train(training)(inputs)):
            old = shapes[training][label]
            assert tuple(tensor.shape) == ((*old[:-1], count) if label in labels else old), label
            assert torch.isfinite(tensor).all() or count == 1, label
        assert any(label in labels for label in shapes[training])


@relaxed
@given(planted_models(), st.integers(1, 15))
def test_restoring_is_the_identity(planted: PlantedModel, count: int) -> None:
    before = snapshot(planted.model)
    with torch.random.fork_rng():  # the new head draws from the generator, which a snapshot includes
        swap = swap_head(planted.model, count, planted.example_inputs)
    swap.restore()
    after = snapshot(planted.model)
    assert_same(before, after)


@relaxed
@given(planted_models())
def test_every_tensor_outside_the_new_head_is_the_same_object(planted: PlantedModel) -> None:
    before = {name: id(value) for name, value in planted.model.state_dict(keep_vars=True).items()}
    swap = swap_head(planted.model, 5, planted.example_inputs)
    after = planted.model.state_dict(keep_vars=True)
    new = {id(after[name]) for name in swap.state_dict()}
    assert new
    for name, value in after.items():
        assert (id(value) != before[name]) == (id(value) in new), name
