"""`device_placement` on a real device. The CPU stands in for it, except in the tests marked `cuda`."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.case.case import Case
from pytest_headswap.case.devices import devices_of
from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.checks import run_check
from pytest_headswap.checks.device_placement import check_moved_between, check_on_device, device_evidence
from pytest_headswap.engine.pytorch import accelerators
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.swapping import resize

MakeCase = Callable[..., Case]

placement: Any = importlib.import_module("pytest_headswap.checks.device_placement")  # the package has the function
CPU = torch.device("cpu")


def _switch(case: Case, fault: str) -> None:
    model: Any = case.model
    model.fault = fault
    model.hidden += [torch.zeros(16, requires_grad=True), torch.zeros(5, 16)]


def test_without_a_device_the_evidence_is_simulated(make_case: MakeCase) -> None:
    case = make_case(device="cpu")
    finding = run_check("device_placement", case)
    assert (finding.outcome, finding.message, finding.evidence) == ("passed", "", "simulated")


def test_without_values_the_device_is_simulated(make_case: MakeCase) -> None:
    case = make_case(evidence="abstract")
    assert devices_of(case) == []
    assert device_evidence(case) == "simulated"


def test_a_sound_model_runs_in_each_dtype(make_case: MakeCase) -> None:
    case = make_case()
    assert check_on_device(case, CPU) == ""


def test_the_check_does_not_change_the_model(make_case: MakeCase) -> None:
    case = make_case()
    assert case.original_values is not None
    before = {key: id(value) for key, value in case.model.state_dict(keep_vars=True).items()}
    check_on_device(case, CPU)
    assert {key: id(value) for key, value in case.model.state_dict(keep_vars=True).items()} == before
    with case.original_head():
        assert case.original_values.changed() == []


def test_a_note_names_dtypes_that_the_model_as_built_does_not_support(make_case: MakeCase) -> None:
    class NoHalf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Linear(8, 16)
            self.fc = nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype is torch.float16:
                raise NotImplementedError("no kernel for Half")
            return self.fc(self.backbone(x).relu())  # type: ignore[no-any-return]

    assert check_on_device(make_case(build=NoHalf), CPU) == "the model as built does not run in torch.float16"


@pytest.mark.parametrize("names", [("width",), ("width", "rows", "columns", "grid")])
def test_numbers_equal_to_the_old_count_are_not_tried_out_in_another_dtype(
    make_case: MakeCase, names: tuple[str, ...]
) -> None:
    calls = itertools.count()

    class Scale(nn.Module):
        width: int

        def __init__(self) -> None:
            super().__init__()
            vars(self).update(dict.fromkeys(names, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            next(calls)
            return x / self.width

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), Scale(), nn.Linear(16, 16))

    case = make_case(build=build, evidence="abstract")
    before = next(calls)
    placement._check_head_follows_model(case)
    assert next(calls) - before - 1 == 2  # one run in each mode


def test_a_head_in_the_wrong_dtype_fails(make_case: MakeCase, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case()
    real = resize.make_class_tensor
    monkeypatch.setattr(resize, "make_class_tensor", lambda *args: nn.Parameter(real(*args).detach().float()))
    with pytest.raises(CheckFailed, match=r"in torch.bfloat16, the head has fc.weight in torch.float32"):
        check_on_device(case, CPU)


def test_a_head_on_another_device_fails(make_case: MakeCase, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case()
    real = resize.make_class_tensor
    monkeypatch.setattr(resize, "make_class_tensor", lambda *args: nn.Parameter(real(*args).detach().to("meta")))
    with pytest.raises(CheckFailed, match=r"after a swap in a model on cpu, the head has fc.weight on meta"):
        check_on_device(case, CPU)


def test_a_model_swapped_on_one_device_must_run_on_another(make_case: MakeCase) -> None:
    case = make_case()
    check_moved_between(case, CPU, CPU)
    _switch(case, "raises in train mode")
    with pytest.raises(
        CheckFailed, match="after a swap on cpu and a move to cpu in its own dtype, the model raises Run"
    ):
        check_moved_between(case, CPU, CPU)


def test_a_forward_that_raises_on_the_device_fails(make_case: MakeCase) -> None:
    case = make_case()
    _switch(case, "raises in train mode")
    with pytest.raises(
        CheckFailed, match="after moving the swapped model to cpu in its own dtype, the model raises Run"
    ):
        check_on_device(case, CPU)


def test_a_model_that_reads_values_is_skipped_without_a_device(make_case: MakeCase) -> None:
    class ReadsValues(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Linear(8, 16)
            self.fc = nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = self.backbone(x)
            return self.fc(features if features.sum().item() > 0 else -features)  # type: ignore[no-any-return]

    finding = run_check("device_placement", make_case(build=ReadsValues, device="cpu"))
    assert (finding.outcome, finding.reason) == ("skipped", "not_simulated")


def _run_out_of_memory(case: Case, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the CPU stand in for a device that runs out of memory on the first `times` forward passes."""
    left = iter(range(times))

    def forward(self: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if next(left, None) is not None:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return plain(self, x)  # type: ignore[no-any-return]

    plain: Any = type(case.model).forward
    monkeypatch.setattr(type(case.model), "forward", forward)
    monkeypatch.setattr(placement, "devices_of", lambda _: [CPU])


def test_a_model_that_runs_out_of_memory_is_retried_alone(make_case: MakeCase, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case()
    _run_out_of_memory(case, 1, monkeypatch)
    finding = run_check("device_placement", case)
    assert (finding.outcome, finding.message, finding.evidence) == ("passed", "", "cpu")


@pytest.mark.parametrize("fault", ["", "tensor made on the CPU"])
def test_a_model_too_large_for_the_device_is_simulated_with_a_note(
    make_case: MakeCase, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    case = make_case(fault, device="cuda")
    _run_out_of_memory(case, 2, monkeypatch)
    finding = run_check("device_placement", case)
    assert finding.outcome == ("failed" if fault else "passed")
    assert finding.evidence == "simulated"
    assert fault or finding.message == "cpu does not have enough memory for this model"
    assert fault or run_check("device_placement", case).evidence == "cpu", "memory is available again"


@pytest.mark.parametrize("check", ["device_placement", "frozen_backbone"])
def test_a_model_in_a_dtype_that_the_device_lacks_is_not_run_there(
    make_case: MakeCase, monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    """The CPU stands in for a device without float64, such as MPS."""
    monkeypatch.setattr(accelerators, "devices", lambda _: [CPU])
    monkeypatch.setattr(accelerators, "supports", lambda _, dtype: dtype is not torch.float64)
    assert run_check(check, make_case()).evidence == "cpu"
    case = make_case()
    case.model.register_buffer("scale", torch.ones(1, dtype=torch.float64))
    finding = run_check(check, case)
    assert (finding.outcome, finding.message) == ("passed", "cpu does not support torch.float64, which this model has")
    assert finding.evidence == ("simulated" if check == "device_placement" else "numeric")


def test_a_note_names_dtypes_that_the_device_does_not_support(
    make_case: MakeCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerators, "supports", lambda _, dtype: dtype is torch.float32)
    assert check_on_device(make_case(), CPU) == "cpu does not support torch.bfloat16, torch.float16"


def test_running_out_of_memory_is_not_mistaken_for_an_unsupported_dtype(
    make_case: MakeCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case()
    real = placement._forward

    def forward(case: Case, inputs: Inputs) -> object:
        if any(tensor.dtype is torch.float16 for tensor in inputs.tensors()):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return real(case, inputs)

    monkeypatch.setattr(placement, "_forward", forward)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        check_on_device(case, CPU)


def test_dtype_support_is_tested_in_train_mode(make_case: MakeCase) -> None:
    class NoHalfInTraining(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Linear(8, 16)
            self.fc = nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype is torch.bfloat16 and self.training:
                raise NotImplementedError("no kernel for bfloat16")
            return self.fc(self.backbone(x).relu())  # type: ignore[no-any-return]

    assert (
        check_on_device(make_case(build=NoHalfInTraining), CPU) == "the model as built does not run in torch.bfloat16"
    )


@pytest.mark.cuda
def test_on_cuda_a_model_too_large_for_the_device_is_simulated_with_a_note(make_case: MakeCase) -> None:
    case = make_case()
    case.model.more = nn.Linear(2**14, 2**14)  # 1 GiB
    torch.cuda.set_per_process_memory_fraction(2**29 / torch.cuda.get_device_properties(0).total_memory)
    try:
        finding = run_check("device_placement", case)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (finding.outcome, finding.evidence) == ("passed", "simulated")
    assert finding.message == "cuda:0 does not have enough memory for this model"
    assert torch.cuda.memory_reserved() == 0


@pytest.mark.cuda
def test_on_cuda_all_memory_is_released(make_case: MakeCase) -> None:
    torch.cuda.empty_cache()
    before = _memory()
    finding = run_check("device_placement", make_case())
    assert (finding.outcome, finding.evidence) == ("passed", _evidence())
    assert _memory() == before


@pytest.mark.cuda
def test_on_cuda_a_sound_model_passes_and_the_evidence_names_the_devices(make_case: MakeCase) -> None:
    case = make_case()
    finding = run_check("device_placement", case)
    assert (finding.outcome, finding.evidence) == ("passed", _evidence())
    assert device_evidence(case) == finding.evidence
    lacking = [str(dtype) for dtype in placement._HALF if not accelerators.supports(torch.device("cuda", 0), dtype)]
    assert finding.message == (f"cuda:0 does not support {', '.join(lacking)}" if lacking else "")


@pytest.mark.cuda
@pytest.mark.parametrize("fault", ["tensor made on the CPU", "head kept aside", "outputs on the CPU"])
def test_on_cuda_a_planted_fault_fails(make_case: MakeCase, fault: str) -> None:
    case = make_case()
    _switch(case, fault)
    finding = run_check("device_placement", case)
    assert (finding.outcome, finding.evidence) == ("failed", "cuda:0")
    assert "cpu" in finding.message


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_on_cuda_a_head_in_another_dtype_fails(
    make_case: MakeCase, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    case = make_case()
    real = resize.make_class_tensor
    monkeypatch.setattr(resize, "make_class_tensor", lambda *args: nn.Parameter(real(*args).detach().float()))
    monkeypatch.setattr(placement, "_HALF", (dtype,))
    with pytest.raises(CheckFailed, match=f"on cuda:0 in {dtype}, the head has fc.weight in torch.float32"):
        check_on_device(case, torch.device("cuda", 0))


def _evidence() -> str:
    """Return the devices of a run that is no worker of xdist: the first, and one to move the model to."""
    return ", ".join(f"cuda:{index}" for index in range(min(2, torch.cuda.device_count())))


def _memory() -> list[tuple[int, int]]:
    indices = range(torch.cuda.device_count())
    return [(torch.cuda.memory_allocated(index), torch.cuda.memory_reserved(index)) for index in indices]


def test_a_tensor_that_every_forward_creates_on_the_cpu_fails(make_case: MakeCase) -> None:
    class Creates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.body(x).relu() * torch.arange(16))  # type: ignore[no-any-return]

    finding = run_check("device_placement", make_case(build=Creates))
    assert (finding.outcome, "with a CPU tensor" in finding.message) == ("failed", True)
