"""`frozen_backbone` names the heads that training did not change."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.case.training import TrainingRecord
from pytest_headswap.checks import run_check

MakeCase = Callable[..., Case]

frozen_backbone: Any = importlib.import_module("pytest_headswap.checks.frozen_backbone")  # the package has the function


def test_only_the_heads_that_training_did_not_change_are_named(make_case: MakeCase) -> None:
    heads = make_case().swap.heads
    with pytest.raises(CheckFailed) as caught:
        frozen_backbone._check_training(TrainingRecord(updated={"aux.weight"}), heads)
    assert caught.value.args[0] == "training did not change the head fc"


def test_a_model_whose_outputs_lose_all_gradients_is_a_failure_and_no_error(make_case: MakeCase) -> None:
    class CutOff(nn.Module):
        fault = ""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)
            self.hidden: list[torch.Tensor] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.fc(self.body(x).relu())
            return logits.detach() if self.fault else logits

    finding = run_check("frozen_backbone", make_case("outputs are detached", build=CutOff, native=None))
    assert (finding.outcome, finding.message) == ("failed", "training did not change the head fc")
