"""Checks that need a class output are skipped for a model that returns only a choice; the others still find faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap import check_headswap
from pytest_headswap.zoo import ModelSpec

LOGITS_NEEDED = {"output_shape", "gradient_flow"}
CHOICES: dict[str, Callable[[Tensor], Any]] = {
    "argmax": lambda logits: logits.argmax(-1),
    "max": lambda logits: logits.max(-1),
    "topk": lambda logits: logits.topk(3),
    "dict": lambda logits: {"label": logits.argmax(-1), "score": logits.softmax(-1).amax(-1)},
}


class Chooser(nn.Module):
    def __init__(self, choose: Callable[[Tensor], Any], num_classes: int = 10) -> None:
        super().__init__()
        self.body, self.fc, self.choose = nn.Linear(8, 16), nn.Linear(16, num_classes), choose
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        return self.choose(self.fc(self.body(x).relu()))


class Drifting(Chooser):
    def forward(self, x: Tensor) -> Any:
        self.body.weight.data.mul_(0.9)
        return super().forward(x)


def outcomes(build: Callable[[int], nn.Module], evidence: str) -> dict[str, tuple[str, str]]:
    spec = ModelSpec("chooser", lambda: build(10), lambda _: torch.randn(4, 8), build_native=build)
    return {result.check: (result.outcome, result.reason) for result in check_headswap(spec, evidence=evidence)}


@pytest.mark.parametrize("evidence", ["numeric", "abstract"])
@pytest.mark.parametrize("choice", CHOICES)
def test_a_model_that_returns_a_choice_is_skipped_where_logits_are_needed(choice: str, evidence: str) -> None:
    found = outcomes(lambda count: Chooser(CHOICES[choice], count), evidence)
    assert {check for check, (outcome, _) in found.items() if outcome == "skipped"} == LOGITS_NEEDED
    assert {reason for outcome, reason in found.values() if outcome == "skipped"} == {"no_class_output"}
    assert {outcome for check, (outcome, _) in found.items() if check not in LOGITS_NEEDED} == {"passed"}


@pytest.mark.parametrize("evidence", ["numeric", "abstract"])
def test_a_choice_beside_the_logits_changes_nothing(evidence: str) -> None:
    found = outcomes(lambda count: Chooser(lambda logits: (logits, logits.argmax(-1)), count), evidence)
    assert {outcome for outcome, _ in found.values()} == {"passed"}


def test_a_shape_that_changes_with_the_swap_still_fails() -> None:
    found = outcomes(lambda count: Chooser(lambda logits: logits.topk(logits.shape[-1] // 2), count), "abstract")
    assert found["output_shape"][0] == "failed"


def test_a_backbone_that_drifts_still_fails() -> None:
    found = outcomes(lambda count: Drifting(CHOICES["argmax"], count), "numeric")
    assert found["frozen_backbone"][0] == "failed"
