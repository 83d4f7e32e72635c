"""`compile` finds heads that compute or train otherwise under `torch.compile`."""

from __future__ import annotations

import shutil

import pytest

from pytest_headswap.checks import run_check
from pytest_headswap.zoo import load_zoo
from tests.checks import opt_in_models as models
from tests.checks.opt_in import Fault, assert_fails, opt_in_case

FAULTS = [
    Fault("compile", r"compiled with aot_eager returns other outputs: output\['logits'\] by 1", models.ZeroIfCaptured),
    Fault("compile", r"output\['logits'\] is \(2, 5\) in torch.float16, not", models.HalfIfCaptured),
    Fault("compile", "gives other gradients: fc.weight is missing", models.CutIfCaptured),
    Fault("compile", "compiled with aot_eager, .*no shapes known", models.RaisesIfCaptured),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_planted_fault_fails(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_fails(fault, monkeypatch, "numeric, aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_a_compiler_generates_code_for_a_sound_model() -> None:
    finding = run_check("compile", opt_in_case(load_zoo("builtin")["residual"]))
    assert (finding.outcome, finding.evidence) == ("passed", "numeric, inductor")
