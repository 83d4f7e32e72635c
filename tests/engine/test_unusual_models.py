"""The whole path of fine-tuning holds on unusual models: swap, freeze, assert, extract, unfreeze, restore."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.engine import assert_frozen, extract_features, freeze_backbone, swap_head
from tests import planted_models as planted

ROWS = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
STEPS = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(0))
MODELS: dict[Callable[[], nn.Module], tuple[torch.Tensor, str]] = {
    planted.LayerForEachClass: (ROWS, "layers."),
    planted.OrthogonalHead: (ROWS, "fc."),
    planted.HouseholderHead: (ROWS, "fc."),
    planted.HeadWithTwoNames: (ROWS, "fc. classifier."),
    planted.HeadInAnotherContainer: (ROWS, "fc. tasks."),
    planted.StandardizedHead: (ROWS, "fc."),
    planted.TracedBody: (ROWS, "fc."),
    planted.ComplexNumbers: (ROWS, "fc."),
    planted.ScriptedBody: (ROWS, "fc."),
    planted.LabelsForEachStep: (STEPS, "fc."),
    planted.LabelsOfSteps: (STEPS, "fc."),
    planted.TokensFirst: (STEPS, "fc."),
}
"""Models, their inputs, and what the names of their heads begin with."""


def trained(model: nn.Module, x: torch.Tensor) -> set[str]:
    """Train all parameters for three steps, with momentum and weight decay. Return the names of what has moved."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        model.train()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("build", MODELS)
def test_only_the_head_of_an_unusual_model_trains(build: Callable[[], nn.Module]) -> None:
    x, head = MODELS[build]
    torch.manual_seed(0)
    model = build()
    freeze_backbone(swap_head(model, 5, x))
    assert_frozen(model, x)
    moved = trained(model, x)
    assert moved
    assert {name for name in moved if not name.startswith(tuple(head.split()))} == set()
    assert_frozen(model, x)


@pytest.mark.parametrize("build", MODELS)
def test_a_stage_of_an_unusual_model_is_unfrozen_and_frozen_again(build: Callable[[], nn.Module]) -> None:
    x, _ = MODELS[build]
    model = build()
    swap = swap_head(model, 5, x)
    frozen = freeze_backbone(swap)
    assert frozen.unfreeze(last=1)
    frozen.refreeze()
    assert_frozen(model, x)
    frozen.unfreeze()
    swap.restore()


ONE_LAYER = [build for build, (x, head) in MODELS.items() if x is ROWS and head.startswith("fc.")]


@pytest.mark.parametrize("build", ONE_LAYER)
def test_features_of_an_unusual_model_are_what_its_head_reads(build: Callable[[], Any]) -> None:
    model = build()
    swap = swap_head(model, 5, ROWS)
    features, _ = extract_features(swap, [ROWS])
    logits = model.eval().fc(features)
    torch.testing.assert_close(logits.abs() if logits.is_complex() else logits, model(ROWS))
