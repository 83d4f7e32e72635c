"""`output_shape` passes sound models, and fails if outputs have the wrong number of classes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from pytest_headswap.case.case import Case
from pytest_headswap.checks import run_check

MakeCase = Callable[..., Case]


def test_a_sound_swap_passes_in_both_modes(make_case: MakeCase) -> None:
    case = make_case()
    finding = run_check("output_shape", case)
    assert (finding.outcome, finding.message, finding.evidence) == ("passed", "", "numeric")
    assert case.swapped_runs[True].shapes == {
        "output['logits']": (2, 5),
        "output['features']": (2, 16),
        "output['aux']": (2, 5),
    }


def test_a_swap_to_the_old_class_count_passes(make_case: MakeCase) -> None:
    assert run_check("output_shape", make_case(num_classes=10)).outcome == "passed"


def test_a_head_output_that_is_never_returned_fails(make_case: MakeCase) -> None:
    case = make_case()
    case.swap.old_heads = (*case.swap.old_heads, replace(case.swap.old_heads[0], outputs=("output['ghost']",)))
    finding = run_check("output_shape", case)
    assert finding.outcome == "failed"
    assert "output['ghost'], but the model returns no such output in any mode" in finding.message


def test_a_swap_whose_heads_reach_no_output_fails(make_case: MakeCase) -> None:
    case = make_case()
    case.swap.old_heads = tuple(replace(head, outputs=()) for head in case.swap.old_heads)
    finding = run_check("output_shape", case)
    assert (finding.outcome, "no output follows the class count" in finding.message) == ("failed", True)


def test_a_wrong_old_class_count_fails(make_case: MakeCase) -> None:
    case = make_case()
    case.swap.old_heads = tuple(replace(head, num_classes=11) for head in case.swap.old_heads)
    finding = run_check("output_shape", case)
    assert finding.outcome == "failed"
    assert "had shape (2, 10) before the swap, without 11 at dimension 1" in finding.message


class OnlyEval(nn.Module):
    """A model that raises in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(8, 16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise RuntimeError("for inference only")
        return self.fc(self.backbone(x).relu())  # type: ignore[no-any-return]


def test_a_mode_that_the_model_does_not_support_is_noted_and_passes(make_case: MakeCase) -> None:
    finding = run_check("output_shape", make_case(build=OnlyEval))
    assert finding.outcome == "passed"
    assert finding.message == "train mode was not compared: the model as built does not run in it"


class FixedBatch(nn.Module):
    """A model that accepts only batches of two."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) != 2:
            raise RuntimeError("two samples at a time")
        return self.fc(x)  # type: ignore[no-any-return]


def test_a_note_says_when_no_other_batch_size_could_be_compared(make_case: MakeCase) -> None:
    finding = run_check("output_shape", make_case(build=FixedBatch))
    assert finding.outcome == "passed"
    assert finding.message.startswith("no other class count and batch size could be compared")


def test_a_failure_names_the_smallest_class_count_and_batch_size(make_case: MakeCase) -> None:
    finding = run_check("output_shape", make_case("class count written into forward"))
    assert finding.outcome == "failed"
    assert finding.message.startswith("with 1 classes and a batch of 1 in eval mode")


def test_hypothesis_is_not_imported_unless_a_comparison_fails(
    make_case: MakeCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    assert run_check("output_shape", make_case()).outcome == "passed"


def test_an_output_that_does_not_grow_with_the_batch_passes(make_case: MakeCase) -> None:
    class WithTable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            features = self.body(x).relu()
            return {"logits": self.fc(features), "mean": features.mean(0)}

    finding = run_check("output_shape", make_case(build=WithTable))
    assert (finding.outcome, finding.message) == ("passed", "")
