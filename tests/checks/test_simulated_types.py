"""`device_placement` simulates a device of any type: code that tells devices apart takes the branch of that type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.case.case import Case
from pytest_headswap.checks import run_check
from tests.planted_models import WIDTH, Planted

MakeCase = Callable[..., Case]
Build = Callable[[], nn.Module]

TYPES = ["cuda", "mps", "xpu", "xla", "hpu", "mtia", "privateuseone"]
KINDS = {"cuda": 1, "mps": 2, "xla": 3}


def fault(telling: Callable[[torch.Tensor], Any]) -> Build:
    """Return a model that adds a CPU tensor where `telling` says so of the features."""

    class AddsFromTheCpu(Planted):
        def between(self, features: torch.Tensor) -> torch.Tensor:
            return features + torch.ones(WIDTH) if telling(features) else features

    return AddsFromTheCpu


def place(kind: str, build: Build, make_case: MakeCase) -> tuple[str, str]:
    """Check a model on a simulated device. Return the outcome and the message."""
    finding = run_check("device_placement", make_case(build=build, native=None, device=f"simulated:{kind}"))
    assert finding.evidence == ("simulated" if kind == "cuda" else f"simulated {kind}")
    return finding.outcome, finding.message


class Mixed(Planted):
    """Sound on every device: layers, indexing, attention and tensors that it makes on the device of its input."""

    def set_up(self) -> None:
        self.stem = nn.Sequential(nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU())
        self.recurrent = nn.GRU(4, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.register_buffer("scale", torch.ones(WIDTH))

    def between(self, features: torch.Tensor) -> torch.Tensor:
        if features.device.type == "cpu":
            return features
        tokens, _ = self.recurrent(self.stem(features.unsqueeze(1)).transpose(1, 2))
        tokens = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        tokens, _ = self.attention(tokens, tokens, tokens)
        features = features[:, torch.arange(WIDTH)] * self.get_buffer("scale").copy_(torch.ones(WIDTH))
        features[0] = torch.zeros(WIDTH, device=str(features.device))
        made = torch.zeros(WIDTH).to(features.device.type) + torch.ones(WIDTH, device=features.device.type)
        pooled: torch.Tensor = tokens.mean((1, 2), keepdim=True)[:, 0]
        return features + made + pooled


@pytest.mark.parametrize("kind", TYPES)
def test_a_sound_model_that_tells_devices_apart_passes(kind: str, make_case: MakeCase) -> None:
    assert place(kind, Mixed, make_case) == ("passed", "")


@pytest.mark.parametrize(("kind", "other"), [*zip(TYPES, TYPES, strict=True), ("cuda", "mps"), ("xla", "cuda")])
def test_only_the_branch_of_the_type_of_the_device_is_taken(kind: str, other: str, make_case: MakeCase) -> None:
    outcome, message = place(kind, fault(lambda x: x.device.type == other), make_case)
    assert outcome == ("failed" if kind == other else "passed")
    assert kind != other or f"on {kind}:0 in eval mode, forward raises" in message


BRANCHES = {
    "is_cuda": ("cuda", lambda x: x.is_cuda),
    "is_mps": ("mps", lambda x: x.is_mps),
    "is_xpu": ("xpu", lambda x: x.is_xpu),
    "is_xla": ("xla", lambda x: x.is_xla),
    "not is_cpu": ("mtia", lambda x: not x.is_cpu),
    "the text of the device": ("hpu", lambda x: str(x.device).startswith("hpu")),
    "one of several types": ("mps", lambda x: x.device.type in ("cuda", "mps")),
    "a type in a variable of the module": ("xla", lambda x: x.device.type in KINDS),
    "another device than the CPU": ("privateuseone", lambda x: x.device != torch.device("cpu")),
    "the index of the device": ("xpu", lambda x: x.get_device() >= 0),
    "a device with an index": ("cuda", lambda x: x.device.index is not None),
    "CUDA is available": ("cuda", lambda x: torch.cuda.is_available() and torch.cuda.device_count() == 1),
    "MPS is available": ("mps", lambda x: torch.backends.mps.is_available() and torch.backends.mps.is_built()),
    "XPU is available": ("xpu", lambda x: torch.xpu.is_available() and not torch.cuda.is_available()),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_a_fault_in_the_branch_of_a_device_fails(name: str, make_case: MakeCase) -> None:
    kind, telling = BRANCHES[name]
    outcome, message = place(kind, fault(telling), make_case)
    assert (outcome, f"on {kind}:0" in message) == ("failed", True)


@pytest.mark.skipif(not hasattr(torch, "accelerator"), reason="torch 2.6 has torch.accelerator")
@pytest.mark.parametrize(("kind", "named"), [("cuda", True), ("mps", True), ("privateuseone", True), ("xla", False)])
def test_torch_accelerator_names_the_device_as_on_a_real_one(kind: str, named: bool, make_case: MakeCase) -> None:
    def is_named(x: torch.Tensor) -> bool:
        current = torch.accelerator.current_accelerator()
        return current is not None and current.type == x.device.type and torch.accelerator.is_available()

    assert place(kind, fault(is_named), make_case)[0] == ("failed" if named else "passed")


class CallsCuda(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features if features.is_cpu else features.cuda()


class AsksForTheSecondDevice(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features if features.is_cpu else features.to(torch.device(features.device.type, 1))


@pytest.mark.parametrize("kind", ["cuda", "mps", "xla"])
def test_a_call_for_a_device_that_is_not_there_fails(kind: str, make_case: MakeCase) -> None:
    outcome, message = place(kind, CallsCuda, make_case)
    assert outcome == ("passed" if kind == "cuda" else "failed")
    assert kind == "cuda" or f"no device cuda: the model is on {kind}:0" in message
    outcome, message = place(kind, AsksForTheSecondDevice, make_case)
    assert (outcome, f"no device {kind}:1" in message) == ("failed", True)


class KeepsItsTypeInAnAttribute(Planted):
    """Faulty on XLA."""

    def set_up(self) -> None:
        self.kind = "xla"

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features + torch.ones(WIDTH) if features.device.type == self.kind else features


class KeepsTypesInItsClass(Planted):
    """Faulty on XLA and MPS."""

    kinds = ("xla", "mps")

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features + torch.ones(WIDTH) if features.device.type in self.kinds else features


class NumbersTheDevice(Planted):
    """Sound: the number 0 is the first device of the accelerator."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features if features.is_cpu else features + torch.ones(WIDTH).to(0) + torch.zeros(WIDTH, device=0)


class MovesALayerInForward(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        if not features.is_cpu:
            self.fc.to(features.device)
        return features


class NumbersAMissingDevice(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features.cuda(1) if features.is_cuda else features


@pytest.mark.parametrize(
    ("build", "faulty"),
    [
        (KeepsItsTypeInAnAttribute, {"xla"}),
        (KeepsTypesInItsClass, {"xla", "mps"}),
        (NumbersTheDevice, set()),
        (MovesALayerInForward, set()),
        (NumbersAMissingDevice, {"cuda"}),
    ],
)
def test_a_model_fails_on_the_types_of_devices_where_it_is_faulty(
    build: Build, faulty: set[str], make_case: MakeCase
) -> None:
    assert {kind for kind in ("cuda", "mps", "xla") if place(kind, build, make_case)[0] == "failed"} == faulty


class VisitsNumpy(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features if features.is_cpu else torch.from_numpy(features.cpu().numpy()).to(features.device)


class WaitsForTheDevice(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        if features.is_xpu:
            torch.xpu.synchronize()
        return features


@pytest.mark.parametrize("build", [VisitsNumpy, WaitsForTheDevice])
def test_a_sound_model_beyond_the_simulation_passes_and_a_note_says_what_was_not_checked(
    build: Build, make_case: MakeCase
) -> None:
    outcome, message = place("xpu", build, make_case)
    assert outcome == "passed"
    assert message.startswith("code for xpu:0 was not checked in train mode: its simulation ends at ")


class KeepsATensorInAList(Planted):
    def set_up(self) -> None:
        self.loose = [torch.ones(WIDTH)]

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features + self.loose[0]


class MovesOnlyToCuda(Planted):
    def to(self, *args: Any, **kwargs: Any) -> Any:
        return super().to(*args, **kwargs) if torch.device(args[0]).type == "cuda" else self


class MovesIfCudaIsAvailable(Planted):
    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        return super()._apply(fn, recurse) if torch.cuda.is_available() else self  # type: ignore[no-untyped-call]


class ConvolvesWithACpuWeight(Planted):
    def between(self, features: torch.Tensor) -> torch.Tensor:
        weight = torch.ones(1, 1, 3, device="cpu" if features.device.type in KINDS else features.device)
        return nn.functional.conv1d(features.unsqueeze(1), weight, padding=1).squeeze(1)


class CopiesTheLogitsToTheCpu(Planted):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return logits if logits.is_cpu else logits.cpu()


@pytest.mark.parametrize("evidence", ["auto", "abstract"])
@pytest.mark.parametrize(
    ("kind", "build", "message"),
    [
        ("mps", KeepsATensorInAList, r"mps:0|a device"),
        ("xla", MovesOnlyToCuda, r"to('xla:0') leaves backbone.weight"),
        ("xpu", MovesIfCudaIsAvailable, r"to('xpu:0') leaves backbone.weight"),
        ("mps", ConvolvesWithACpuWeight, "mps:0"),
        ("xla", CopiesTheLogitsToTheCpu, "with the model on xla:0, forward in eval mode returns output on cpu"),
    ],
)
def test_a_tensor_left_on_the_cpu_fails(
    kind: str, build: Build, message: str, evidence: str, make_case: MakeCase
) -> None:
    if build is KeepsATensorInAList and evidence == "abstract":
        pytest.skip("without values, the simulation does not see a tensor that the model does not register")
    finding = run_check(
        "device_placement", make_case(build=build, native=None, device=f"simulated:{kind}", evidence=evidence)
    )
    assert finding.outcome == "failed"
    assert any(part in finding.message for part in message.split("|")), finding.message


def test_the_truth_about_devices_returns_after_the_check(make_case: MakeCase) -> None:
    functions = torch.cuda.is_available, torch.backends.mps.is_available, torch.cuda.device_count
    place("mps", fault(lambda x: x.is_mps), make_case)
    assert (torch.cuda.is_available, torch.backends.mps.is_available, torch.cuda.device_count) == functions
    assert torch.zeros(1).device.type == "cpu"
