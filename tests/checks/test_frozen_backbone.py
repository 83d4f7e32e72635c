"""`frozen_backbone` names the heads that training did not change."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.case.case import Case
from pytest_headswap.case.devices import case_on_device
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


CPU = torch.device("cpu")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU stand in for a device. `tests/checks/test_on_device.py` has the tests on real ones."""
    monkeypatch.setattr(frozen_backbone, "devices_of", lambda _: [CPU])


@pytest.mark.usefixtures("on_cpu")
def test_with_a_device_the_head_is_trained_there_and_the_evidence_names_it(make_case: MakeCase) -> None:
    case = make_case()
    assert case.original_values is not None
    before = {key: id(value) for key, value in case.model.state_dict(keep_vars=True).items()}
    finding = run_check("frozen_backbone", case)
    assert (finding.outcome, finding.message, finding.evidence) == ("passed", "", "cpu")
    assert {key: id(value) for key, value in case.model.state_dict(keep_vars=True).items()} == before
    assert case.values_changed_by_swap == []
    assert run_check("gradient_flow", case).evidence == "numeric"


def test_without_a_device_the_evidence_is_numeric(make_case: MakeCase) -> None:
    assert run_check("frozen_backbone", make_case(device="cpu")).evidence == "numeric"


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "weight written through .data",
            "on cpu, the backbone cannot be frozen: [not_freezable] forward writes to backbone.weight",
        ),
        ("NaN", "on cpu, while training the head, values are not finite in output['logits'] in step 1"),
        ("raises in train mode", "on cpu, training raises RuntimeError: out of luck"),
    ],
)
def test_a_failure_on_a_device_names_the_device(make_case: MakeCase, fault: str, message: str) -> None:
    finding = run_check("frozen_backbone", make_case(fault))
    assert (finding.outcome, finding.evidence) == ("failed", "cpu")
    assert finding.message.startswith(message)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(("times", "evidence"), [(1, "cpu"), (2, "numeric")])
def test_a_model_too_large_to_train_on_the_device_is_trained_on_the_cpu_with_a_note(
    make_case: MakeCase, monkeypatch: pytest.MonkeyPatch, times: int, evidence: str
) -> None:
    left = iter(range(times))

    def on_device(case: Case, device: torch.device) -> AbstractContextManager[Case]:
        if next(left, None) is not None:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return case_on_device(case, device)

    monkeypatch.setattr(frozen_backbone, "case_on_device", on_device)
    finding = run_check("frozen_backbone", make_case())
    assert (finding.outcome, finding.evidence) == ("passed", evidence)
    assert finding.message == ("cpu does not have enough memory for this model" if times > 1 else "")


@pytest.mark.cuda
def test_on_cuda_the_head_is_trained_there_and_a_write_that_only_happens_there_fails(make_case: MakeCase) -> None:
    class CountsOnCuda(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.is_cuda:
                self.get_buffer("steps").add_(1)
            return self.fc(self.body(x).relu())  # type: ignore[no-any-return]

    sound = run_check("frozen_backbone", make_case())
    assert (sound.outcome, sound.evidence) == ("passed", "cuda:0")
    finding = run_check("frozen_backbone", make_case(build=CountsOnCuda, native=None))
    assert (finding.outcome, finding.evidence) == ("failed", "cuda:0")
    assert "steps" in finding.message
    assert run_check("frozen_backbone", make_case(build=CountsOnCuda, native=None, device="cpu")).outcome == "passed"


def test_without_values_the_reason_stays_in_the_note(make_case: MakeCase) -> None:
    case = make_case(evidence="abstract")
    case.abstract_reason = "real values would need too much"
    finding = run_check("frozen_backbone", case)
    assert (finding.message, finding.evidence) == ("real values would need too much", "abstract")
