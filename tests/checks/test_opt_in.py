"""Every opt-in check passes on sound models, leaves the case unchanged, and skips models without values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.case.real_runs import check_and_blame
from pytest_headswap.checks import run_check
from pytest_headswap.checks.registry import OPT_IN_CHECKS
from pytest_headswap.zoo import ModelSpec
from tests.checks import opt_in_models as models
from tests.checks.opt_in import NET, needed, opt_in_case
from tests.faulty_net import inputs


def _switch_body(model: Any) -> None:
    model.parts = "body"


CHECKPOINTED = ModelSpec(
    "net", models.Checkpointed, inputs, models.Checkpointed, enable_grad_checkpointing=_switch_body
)


@pytest.mark.parametrize("check", OPT_IN_CHECKS)
def test_every_opt_in_check_has_at_least_three_faults(check: str) -> None:
    faults = import_module(f"tests.checks.test_{check}").FAULTS
    assert len({(fault.message, fault.head, fault.engine) for fault in faults if fault.check == check}) >= 3


ROWS = torch.arange(16.0).reshape(2, 8)
IDS = torch.arange(10).reshape(2, 5)
SOUND: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "two heads": (models.TwoHeads, ROWS),
    "tied weights": (models.TiedBody, ROWS),
    "mask": (models.Masked, {"ids": IDS, "mask": IDS < 8}),
    "no mask": (models.Masked, {"ids": IDS}),
    "object": (models.Recurrent, torch.ones(2, 3, 8)),
    "bfloat16": (partial(models.half_precision, torch.bfloat16), ROWS.bfloat16()),
    "float16": (partial(models.half_precision, torch.float16), ROWS.half()),
    "checkpointed": (models.Checkpointed, ROWS),
}


UNSUPPORTED = {("amp", "float16"): "expect parameter to have scalar type", ("onnx", "bfloat16"): "NOT_IMPLEMENTED"}
"""Sound models that torch or a runtime does not support, and its message."""


@pytest.mark.parametrize("check", OPT_IN_CHECKS)
@pytest.mark.parametrize("name", SOUND)
def test_a_sound_model_passes(check: str, name: str) -> None:
    needed(check)
    build, example = SOUND[name]
    native = build if isinstance(build, type) else None
    head = ("one", "two") if build is models.TwoHeads else None
    spec = ModelSpec("net", build, lambda _: example, native, head=head, enable_grad_checkpointing=_switch_body)
    finding = run_check(check, opt_in_case(spec))
    if (check, name) in UNSUPPORTED or (check == "grad_checkpointing" and build is not models.Checkpointed):
        assert (finding.outcome, finding.reason) == ("skipped", "fails_before_swap")
        assert UNSUPPORTED.get((check, name), "has no effect") in finding.message
    elif check == "hub_round_trip" and native is None:
        assert (finding.outcome, finding.reason) == ("skipped", "no_native")
    else:
        assert (finding.outcome, finding.message) == ("passed", ""), finding


@pytest.mark.parametrize("of_built", [RuntimeError("broken"), AssertionError("broken too")])
def test_a_check_that_cannot_judge_the_model_as_built_still_reports_its_failure(of_built: Exception) -> None:
    case = opt_in_case(NET)

    def check(heads: Any) -> str:
        raise CheckFailed("the new head is wrong") if heads is case.swap.heads else of_built

    with pytest.raises(CheckFailed, match="the new head is wrong") as caught:
        check_and_blame(case, check, "cannot be exported")
    assert caught.value.__cause__ is of_built


@pytest.mark.parametrize("check", OPT_IN_CHECKS)
def test_a_check_leaves_the_case_unchanged(check: str) -> None:
    needed(check)
    case = opt_in_case(CHECKPOINTED)
    before = {name: (value, value.detach().clone()) for name, value in case.model.state_dict(keep_vars=True).items()}
    modes = [(module.training, dict(module.__dict__)) for module in case.model.modules()]
    flags = [parameter.requires_grad for parameter in case.model.parameters()]
    generator = torch.get_rng_state()
    assert run_check(check, case).outcome == "passed"
    now = case.model.state_dict(keep_vars=True)
    assert all(now[name] is value and torch.equal(value, copy) for name, (value, copy) in before.items())
    assert [module.training for module in case.model.modules()] == [mode for mode, _ in modes]
    assert [set(module.__dict__) for module in case.model.modules()] == [set(state) for _, state in modes]
    assert [parameter.requires_grad for parameter in case.model.parameters()] == flags
    assert all(parameter.grad is None for parameter in case.model.parameters())
    assert torch.equal(generator, torch.get_rng_state())


@pytest.mark.parametrize("check", OPT_IN_CHECKS)
def test_a_model_without_values_is_skipped(check: str) -> None:
    needed(check)
    case = opt_in_case(
        CHECKPOINTED,
        "abstract",
    )
    finding = run_check(check, case)
    assert (finding.outcome, finding.reason) == ("skipped", "no_values")
    assert finding.message.endswith("but the model has none: it was built for abstract evidence")


@pytest.mark.parametrize("check", sorted({"amp", "compile"} & OPT_IN_CHECKS.keys()))
def test_control_flow_of_the_model_disturbs_neither_autocast_nor_compile(check: str) -> None:
    assert run_check(check, opt_in_case(ModelSpec("net", models.BranchesOnValues, inputs))).outcome == "passed"
