"""`amp` finds heads that do not train under autocast."""

from __future__ import annotations

import pytest

from tests.checks import opt_in_models as models
from tests.checks.opt_in import Fault, assert_fails

FAULTS = [
    Fault("amp", r"in eval mode, no gradient reaches fc\.(weight, fc\.)?bias", models.CutUnderAutocast),
    Fault("amp", r"the model raises RuntimeError: .*\(opt_in_models.py:\d+: return torch.zeros", models.AddsToFloat32),
    Fault("amp", r"output\['logits'\] differs by \d+% of its norm", models.Cancels),
    Fault("amp", "forward changes the dtype of fc.weight", models.CastsItself),
    Fault("amp", r"values are not finite in output\['logits'\]", models.OverflowsUnderAutocast),
    Fault("amp", r"output\['logits'\] has shape \(2, 2\), not \(2, 5\)", models.NarrowUnderAutocast),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_planted_fault_fails(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_fails(fault, monkeypatch)
