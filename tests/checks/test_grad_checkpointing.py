"""`grad_checkpointing` finds heads that train otherwise with gradient checkpointing."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import pytest
from torch import nn

from pytest_headswap.checks import run_check
from pytest_headswap.zoo import ModelSpec
from tests.checks import opt_in_models as models
from tests.checks.opt_in import Fault, assert_fails, opt_in_case
from tests.faulty_net import FaultyNet, inputs


def _switch_head(model: Any) -> None:
    model.parts = "head"


def _switch_own(model: Any) -> None:
    model.fc.switch()


def _switch_kind(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, models.Switched):
            module.switch()


def _checkpointed(enable: Callable[[Any], None]) -> ModelSpec:
    return ModelSpec("net", models.Checkpointed, inputs, enable_grad_checkpointing=enable)


def _plain(old: nn.Module) -> nn.Module:
    return nn.Linear(16, 5)


CHECKPOINTED = _checkpointed(_switch_head)
FAULTS = [
    Fault("grad_checkpointing", "gives other gradients: .*fc.weight by", models.ScaledByCalls, CHECKPOINTED),
    Fault("grad_checkpointing", "with gradient checkpointing, CheckpointError", models.DeeperByCalls, CHECKPOINTED),
    Fault("grad_checkpointing", "gives other gradients: .*fc.weight", models.WritesToItsInput, CHECKPOINTED),
    Fault(
        "grad_checkpointing",
        "turning gradient checkpointing on raises AttributeError: .*switch",
        _plain,
        _checkpointed(_switch_own),
    ),
    Fault("grad_checkpointing", "has no effect", _plain, _checkpointed(_switch_kind)),
    Fault("grad_checkpointing", "returns other outputs: output by", models.RandomOnRequest, _checkpointed(_switch_own)),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_planted_fault_fails(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_fails(fault, monkeypatch)


@pytest.mark.parametrize("enable", [None, attrgetter("no_such_method")])
def test_a_model_without_gradient_checkpointing_is_skipped(enable: Callable[[nn.Module], object] | None) -> None:
    finding = run_check(
        "grad_checkpointing", opt_in_case(ModelSpec("net", FaultyNet, inputs, enable_grad_checkpointing=enable))
    )
    assert (finding.outcome, finding.reason) == ("skipped", "no_grad_checkpointing")
