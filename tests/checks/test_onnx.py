"""`onnx` finds heads that have no ONNX form, or one that computes otherwise."""

from __future__ import annotations

import pytest

from pytest_headswap.checks import run_check
from pytest_headswap.zoo import ModelSpec
from tests.checks import opt_in_models as models
from tests.checks.opt_in import NET, Fault, assert_fails, needed, opt_in_case
from tests.faulty_net import inputs

FAULTS = [
    Fault("onnx", "torch.onnx.export raises", models.HasNoForm),
    Fault("onnx", "torch.onnx.export raises", models.DecidesByValue),
    Fault("onnx", r"the ONNX model returns other outputs: output\['logits'\] by 1 of", models.ZeroIfCaptured),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_planted_fault_fails(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_fails(fault, monkeypatch)


def test_control_flow_of_the_model_is_not_the_fault_of_the_swap() -> None:
    needed("onnx")
    finding = run_check("onnx", opt_in_case(ModelSpec("net", models.BranchesOnValues, inputs)))
    assert (finding.outcome, finding.reason) == ("skipped", "fails_before_swap")
    assert finding.message.startswith("the model cannot be exported to ONNX before the swap either: torch.onnx.export")


def test_onnx_without_its_packages_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_headswap.checks.onnx._PACKAGES", ("onnx_that_is_not_there",))
    finding = run_check("onnx", opt_in_case(NET))
    assert (finding.outcome, finding.reason) == ("skipped", "not_installed")
    assert finding.message == "this check needs onnx_that_is_not_there: pip install 'pytest-headswap[onnx]'"
