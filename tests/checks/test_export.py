"""`export` finds heads that `torch.export` does not capture, or captures wrongly."""

from __future__ import annotations

import re

import pytest

from pytest_headswap.checks import run_check
from pytest_headswap.zoo import ModelSpec
from tests.checks import opt_in_models as models
from tests.checks.opt_in import Fault, assert_fails, opt_in_case
from tests.faulty_net import inputs

FAULTS = [
    Fault("export", r"torch.export raises .*\(opt_in_models.py:\d+: return super.*x.sum", models.DecidesByValue),
    Fault("export", r"torch.export raises .*\(opt_in_models.py:\d+: .*item", models.TakesAnItem),
    Fault("export", r"torch.export raises .*\(opt_in_models.py:\d+: .*numpy", models.UsesNumPy),
    Fault("export", r"the exported program returns other outputs: output\['logits'\] by 1 of", models.ZeroIfCaptured),
    Fault("export", r"output\['logits'\] is \(2, 5\) in torch.float16, not", models.HalfIfCaptured),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_planted_fault_fails(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_fails(fault, monkeypatch)


def test_control_flow_of_the_model_is_not_the_fault_of_the_swap() -> None:
    finding = run_check("export", opt_in_case(ModelSpec("net", models.BranchesOnValues, inputs)))
    assert (finding.outcome, finding.reason) == ("skipped", "fails_before_swap")
    assert finding.message.startswith("the model cannot be exported before the swap either: torch.export raises ")
    assert re.search(r"\(opt_in_models.py:\d+: if bool\(features.sum\(\) > 0\):", finding.message)
