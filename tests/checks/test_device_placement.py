"""`device_placement` on a device that is there: the CPU stands in for it, and with CUDA the tests at the end run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.checks import Case, CheckFailed, run_check
from pytest_headswap.checks.device_placement import devices_of, evidence, from_one_to_another, on_device
from pytest_headswap.engine import resize

MakeCase = Callable[..., Case]

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def _switch(case: Case, fault: str) -> None:
    model: Any = case.model
    model.fault = fault
    model.hidden += [torch.zeros(16, requires_grad=True), torch.zeros(5, 16)]


def test_without_a_device_the_evidence_is_simulated(make_case: MakeCase) -> None:
    case = make_case(device="cpu")
    finding = run_check("device_placement", case)
    assert (finding.outcome, finding.message, finding.evidence) == ("passed", "", "simulated")


def test_without_values_the_device_is_simulated(make_case: MakeCase) -> None:
    case = make_case(evidence="structure")
    assert devices_of(case) == []
    assert evidence(case) == "simulated"


def test_a_sound_model_runs_in_each_dtype(make_case: MakeCase) -> None:
    case = make_case()
    assert on_device(case, CPU) == ""


def test_the_model_is_left_as_it_is(make_case: MakeCase) -> None:
    case = make_case()
    assert case.values is not None
    before = {key: id(value) for key, value in case.model.state_dict(keep_vars=True).items()}
    on_device(case, CPU)
    assert {key: id(value) for key, value in case.model.state_dict(keep_vars=True).items()} == before
    with case.restored():
        assert case.values.changed() == []


def test_a_dtype_that_the_model_as_built_does_not_support_is_named(make_case: MakeCase) -> None:
    class NoHalf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Linear(8, 16)
            self.fc = nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype is torch.float16:
                raise NotImplementedError("no kernel for Half")
            return self.fc(self.backbone(x).relu())  # type: ignore[no-any-return]

    assert on_device(make_case(build=NoHalf), CPU) == "as built it does not run in torch.float16"


def test_a_head_in_the_wrong_dtype_fails(make_case: MakeCase, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case()
    real = resize._resized
    monkeypatch.setattr(resize, "_resized", lambda *args: nn.Parameter(real(*args).detach().float()))
    with pytest.raises(CheckFailed, match=r"in torch.bfloat16, the head has fc.weight in torch.float32"):
        on_device(case, CPU)


def test_a_head_elsewhere_fails(make_case: MakeCase, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case()
    real = resize._resized
    monkeypatch.setattr(resize, "_resized", lambda *args: nn.Parameter(real(*args).detach().to("meta")))
    with pytest.raises(CheckFailed, match=r"swapped into a model on cpu, the head has fc.weight on meta"):
        on_device(case, CPU)


def test_a_model_that_is_swapped_on_one_device_runs_on_another(make_case: MakeCase) -> None:
    case = make_case()
    from_one_to_another(case, CPU, CPU)
    _switch(case, "raises in train mode")
    with pytest.raises(CheckFailed, match="swapped on cpu and moved to cpu in its own dtype it raises RuntimeError"):
        from_one_to_another(case, CPU, CPU)


def test_a_forward_that_raises_there_fails(make_case: MakeCase) -> None:
    case = make_case()
    _switch(case, "raises in train mode")
    with pytest.raises(CheckFailed, match="moved after the swap to cpu in its own dtype it raises RuntimeError"):
        on_device(case, CPU)


def test_a_model_whose_forward_needs_values_is_skipped_by_name(make_case: MakeCase) -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Linear(8, 16)
            self.fc = nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = self.backbone(x)
            return self.fc(features if features.sum().item() > 0 else -features)  # type: ignore[no-any-return]

    finding = run_check("device_placement", make_case(build=Asking, device="cpu"))
    assert (finding.outcome, finding.reason) == ("skipped", "not_simulated")


@needs_cuda
def test_on_cuda_a_sound_model_passes_and_the_evidence_names_the_devices(make_case: MakeCase) -> None:
    case = make_case()
    finding = run_check("device_placement", case)
    assert finding.outcome == "passed"
    assert finding.evidence.startswith("cuda:0")
    assert evidence(case) == finding.evidence


@needs_cuda
@pytest.mark.parametrize("fault", ["tensor made on the CPU", "head kept aside", "outputs on the CPU"])
def test_on_cuda_a_planted_fault_fails(make_case: MakeCase, fault: str) -> None:
    case = make_case()
    _switch(case, fault)
    assert run_check("device_placement", case).outcome == "failed"
