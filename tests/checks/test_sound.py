"""No check fails a sound model: the whole builtin zoo, and models that hypothesis makes up."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings

from pytest_headswap.case.options import CaseOptions
from pytest_headswap.case.build import build_case
from pytest_headswap.case.finding import Finding
from pytest_headswap.checks import CHECKS, run_check
from pytest_headswap.engine import NoHeadError
from pytest_headswap.strategies import PlantedModel, planted_models
from pytest_headswap.zoo import ModelSpec, load_zoo

BUILTIN = load_zoo("builtin")


def _findings(spec: ModelSpec, evidence: str) -> dict[str, Finding]:
    case = build_case("sound", spec, CaseOptions(7, evidence, "cpu"))
    return {name: run_check(name, case) for name in CHECKS}


@pytest.mark.parametrize("evidence", ["abstract", "numeric"])
@pytest.mark.parametrize("name", BUILTIN.names)
def test_each_builtin_model_passes_every_check(name: str, evidence: str) -> None:
    if name == "encoder_without_head":
        with pytest.raises(NoHeadError):
            _findings(BUILTIN[name], evidence)
        return
    for check, finding in _findings(BUILTIN[name], evidence).items():
        if check == "native_parity" and BUILTIN[name].build_native is None:
            assert finding.reason == "no_native"
            continue
        assert finding.outcome == "passed", (check, finding)
        rests_on = {"native_parity": "abstract", "metadata": "abstract", "device_placement": "simulated"}
        assert finding.evidence == rests_on.get(check, evidence)


@seed(20261124)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(planted=planted_models())
def test_each_made_up_model_passes_every_check(planted: PlantedModel) -> None:
    spec = ModelSpec("planted", lambda: planted.model, lambda _: planted.example_inputs)
    for check, finding in _findings(spec, "numeric").items():
        assert finding.outcome in ("passed", "skipped"), (check, finding)


def test_checks_leave_a_model_and_the_random_state_as_they_are() -> None:
    model = BUILTIN["train_only_aux"].build().train()
    state = {key: (id(value), value.clone()) for key, value in model.state_dict(keep_vars=True).items()}
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    torch.manual_seed(3)
    random.seed(3)
    expected = torch.rand(1), random.random()
    torch.manual_seed(3)
    random.seed(3)
    case = build_case(
        "sound", ModelSpec("mine", lambda: model, BUILTIN["train_only_aux"].example_inputs), CaseOptions()
    )
    for name in CHECKS:
        assert run_check(name, case).outcome in ("passed", "skipped")
    case.swap.restore()
    now = model.state_dict(keep_vars=True)
    assert {key: id(value) for key, value in now.items()} == {key: identity for key, (identity, _) in state.items()}
    assert all(torch.equal(now[key], value) for key, (_, value) in state.items())
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (torch.rand(1), random.random()) == expected


def test_a_verdict_does_not_depend_on_what_ran_before() -> None:
    def numbers() -> list[torch.Tensor]:
        case = build_case("sound", BUILTIN["seed_simple_cnn"], CaseOptions(7, "numeric", "cpu"))
        return [*case.inputs.tensors(), *(value for value in case.training.gradients.values() if value is not None)]

    torch.manual_seed(1)
    first = numbers()
    for name in ("transformer", "segmentation"):
        _findings(BUILTIN[name], "numeric")
    torch.manual_seed(2)
    second = numbers()
    assert len(first) == len(second) == 3
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
