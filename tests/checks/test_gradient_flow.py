"""`gradient_flow` passes if exactly the new head is trained, and fails otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytest_headswap.case.case import Case
from pytest_headswap.checks import run_check

MakeCase = Callable[..., Case]


def test_a_sound_swap_passes(make_case: MakeCase) -> None:
    case = make_case()
    finding = run_check("gradient_flow", case)
    assert (finding.outcome, finding.message, finding.evidence) == ("passed", "", "numeric")
    assert {name for name, _ in case.swap.named_parameters()} == {"fc.weight", "fc.bias", "aux.weight", "aux.bias"}


def test_a_swap_without_new_parameters_fails(make_case: MakeCase, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case()
    monkeypatch.setattr(case.swap, "named_parameters", lambda: iter(()))
    finding = run_check("gradient_flow", case)
    assert (finding.outcome, "nothing to train" in finding.message) == ("failed", True)


def test_a_new_parameter_that_forward_does_not_use_fails(make_case: MakeCase, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case()
    unused = nn.Parameter(torch.zeros(5, device="meta"))
    case.model.register_parameter("unused", unused)
    new = [*case.swap.named_parameters(), ("unused", unused)]
    monkeypatch.setattr(case.swap, "named_parameters", lambda: iter(new))
    finding = run_check("gradient_flow", case)
    assert (finding.outcome, "reaches unused in any mode" in finding.message) == ("failed", True)


def test_a_model_frozen_before_the_swap_passes(make_case: MakeCase) -> None:
    def frozen() -> nn.Module:
        model: nn.Module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))
        return model.requires_grad_(False)

    assert run_check("gradient_flow", make_case(build=frozen)).outcome == "passed"


def test_requires_grad_flags_are_restored(make_case: MakeCase) -> None:
    case = make_case("head without gradients")
    backbone = case.model.get_parameter("backbone.bias")
    backbone.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in case.model.named_parameters()}
    run_check("gradient_flow", case)
    assert {name: parameter.requires_grad for name, parameter in case.model.named_parameters()} == before
    assert all(parameter.grad is None for parameter in case.model.parameters())


def test_a_note_names_the_mode_in_which_the_model_does_not_run(make_case: MakeCase) -> None:
    class EvalOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                raise RuntimeError("only for inference")
            return self.fc(self.body(x).relu())  # type: ignore[no-any-return]

    finding = run_check("gradient_flow", make_case(build=EvalOnly))
    assert (finding.outcome, finding.message) == (
        "passed",
        "train mode was not checked: the model does not run in it",
    )
