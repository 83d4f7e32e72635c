"""The checks that use a device find faults on a real one: `pytest -m device tests/checks --headswap-device=TYPE`.

Each fault below shows on that device only: on the CPU the model is sound.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pytest_headswap import check_headswap
from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.checks import run_check
from pytest_headswap.checks.device_placement import check_on_device
from pytest_headswap.engine import freeze_backbone, swap_head
from pytest_headswap.engine.pytorch import accelerators
from pytest_headswap.engine.swapping import resize
from pytest_headswap.harness.device_option import parse_device
from tests.faulty_net import BATCH, NEW, OLD, WIDTH

pytestmark = pytest.mark.device

MakeCase = Callable[..., Case]


@pytest.fixture(scope="module")
def device(pytestconfig: pytest.Config) -> torch.device:
    """Return the device that the options name."""
    named, backend = (pytestconfig.getoption(f"headswap_{name}") for name in ("device", "device_import"))
    if not named:
        pytest.fail("name a device with --headswap-device, such as cuda, xla or vulkan")
    given = parse_device(named, "--headswap-device", backend or "", "--headswap-device-import")
    return accelerators.devices(given)[0]


@pytest.fixture
def run(make_case: MakeCase, device: torch.device) -> Callable[..., Any]:
    """Return a function that builds a case for the device, and runs a check on it."""

    def run(check: str, build: Callable[[], nn.Module], *, fault: str = "") -> Any:
        case = make_case(fault, build=build, native=None, device=str(device))
        finding = run_check(check, case)
        assert finding.evidence == str(device), finding
        return finding

    return run


class Net(nn.Module):
    """A sound model with a norm, dropout and a buffer. Subclasses misbehave on a device other than the CPU."""

    fault, hidden = "", ()

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.bn, self.drop = nn.Linear(8, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout()
        self.fc = nn.Linear(WIDTH, OLD)
        self.register_buffer("scale", torch.linspace(0.5, 1, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.drop(self.bn(self.backbone(x)).relu()) * self.get_buffer("scale")
        if x.device.type not in ("cpu", "meta"):
            features = self.misbehave(features)
        return self.finish(self.fc(features))

    def misbehave(self, features: torch.Tensor) -> torch.Tensor:
        return features

    def finish(self, logits: torch.Tensor) -> torch.Tensor:
        return logits


class Convolutional(nn.Sequential):
    """A sound model of images."""

    fault = ""

    def __init__(self) -> None:
        layers = (nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, WIDTH, 1), nn.BatchNorm2d(WIDTH), nn.GELU())
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, OLD))


class Attending(nn.Module):
    """A sound model of sequences."""

    fault = ""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, WIDTH)
        self.attention = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)
        self.fc = nn.Linear(WIDTH, OLD)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.attention(self.embed(x.view(-1, 2, 4))).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("check", ["device_placement", "frozen_backbone"])
@pytest.mark.parametrize("build", [Net, Convolutional, Attending])
def test_a_sound_model_passes_and_the_evidence_is_the_device(
    run: Callable[..., Any], check: str, build: type[nn.Module]
) -> None:
    finding = run(check, build)
    assert finding.outcome == "passed", finding.message


# faults in the placement


class HeadStays(nn.Linear):
    """A head that `to` does not move."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        return self


class WithHeadThatStays(Net):
    def __init__(self) -> None:
        super().__init__()
        self.fc = HeadStays(WIDTH, OLD)


class LeavesBuffer(Net):
    """Keeps a buffer where it is."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        scale = self.get_buffer("scale")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call, unused-ignore]
        self._buffers["scale"] = scale
        return self


class KeepsTableAside(Net):
    """Has a table that is not registered, so that `to` does not know it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = [torch.ones(WIDTH)]

    def misbehave(self, features: torch.Tensor) -> torch.Tensor:
        return features * self.table[0]


class CreatesOnCpu(Net):
    def misbehave(self, features: torch.Tensor) -> torch.Tensor:
        return features + torch.arange(WIDTH)


class CreatesOnCpuInTraining(Net):
    def misbehave(self, features: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.ones(WIDTH) > 0, features, 0.0) if self.training else features


class JoinsCpuTensor(Net):
    def misbehave(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([features[:, 1:], torch.zeros(len(features), 1)], 1)


class ReturnsToCpu(Net):
    def finish(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.cpu()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (WithHeadThatStays, "leaves fc.weight, fc.bias where they were"),
        (LeavesBuffer, "leaves scale where they were"),
        (KeepsTableAside, "CPU|cpu"),
        (CreatesOnCpu, "CPU|cpu"),
        (CreatesOnCpuInTraining, "CPU|cpu"),
        (JoinsCpuTensor, "CPU|cpu"),
        (ReturnsToCpu, "forward in train mode returns output on cpu"),
    ],
)
def test_a_tensor_on_the_wrong_device_fails(
    make_case: MakeCase, device: torch.device, build: type[nn.Module], message: str
) -> None:
    case = make_case(build=build, native=None, device=str(device))
    finding = run_check("device_placement", case)
    assert finding.outcome == "failed"
    assert re.search(message, finding.message), finding.message
    with pytest.raises(CheckFailed, match=r"CPU|cpu"):  # without the simulated move that comes first
        check_on_device(case, device)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor.cpu(), "the head has fc.weight on cpu"),
        (lambda tensor: tensor.float(), "in torch.bfloat16, the head has fc.weight in torch.float32"),
    ],
)
def test_a_head_that_does_not_follow_the_model_fails(
    run: Callable[..., Any],
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[torch.Tensor], torch.Tensor],
    message: str,
) -> None:
    if "bfloat16" in message and not accelerators.supports(device, torch.bfloat16):
        pytest.skip(f"{device} does not support torch.bfloat16")
    make = resize.make_class_tensor

    def make_elsewhere(*arguments: Any) -> torch.Tensor:
        tensor = make(*arguments)
        return nn.Parameter(change(tensor.detach())) if tensor.device == device else tensor

    monkeypatch.setattr(resize, "make_class_tensor", make_elsewhere)
    finding = run("device_placement", Net)
    assert finding.outcome == "failed"
    assert message in finding.message


# faults in the training


class DriftingNorm(Net):
    """Updates the statistics of its norm."""

    def misbehave(self, features: torch.Tensor) -> torch.Tensor:
        F.batch_norm(features.detach() + 1, self.bn.running_mean, self.bn.running_var, training=True)
        return features


class WritesData(Net):
    """Writes to a weight through `.data`, where autograd does not see it."""

    def misbehave(self, features: torch.Tensor) -> torch.Tensor:
        self.backbone.weight.data.mul_(0.5)
        return features


class WritesInBackward(Net):
    """Writes to a weight in the backward pass, where no run without gradients sees it."""

    def finish(self, logits: torch.Tensor) -> torch.Tensor:
        if logits.requires_grad and logits.device.type not in ("cpu", "meta"):
            logits.register_hook(self._write)  # type: ignore[no-untyped-call, unused-ignore]
        return logits

    def _write(self, _: torch.Tensor) -> None:
        self.backbone.weight.data.mul_(0.5)


class Counts(Net):
    """Changes a buffer by the smallest possible amount."""

    def misbehave(self, features: torch.Tensor) -> torch.Tensor:
        self.get_buffer("scale").mul_(1 + 2**-23)
        return features


class DropsFeatures(Net):
    def misbehave(self, features: torch.Tensor) -> torch.Tensor:
        return F.dropout(features)


class MixesSamples(Net):
    def misbehave(self, features: torch.Tensor) -> torch.Tensor:
        return features - features.mean(0)


class CutsGradient(Net):
    def finish(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if logits.device.type in ("cpu", "meta") else logits.detach()


class Overflows(Net):
    def finish(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if logits.device.type in ("cpu", "meta") else logits / 0


class Raises(Net):
    def misbehave(self, features: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("no kernel for this")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (DriftingNorm, "changed bn.running_mean, bn.running_var of the frozen backbone"),
        (WritesData, "changed backbone.weight of the frozen backbone"),
        (WritesInBackward, "changed backbone.weight of the frozen backbone"),
        (Counts, "changed scale of the frozen backbone"),
        (DropsFeatures, "the features of a sample depend on chance"),
        (MixesSamples, "the features of a sample depend on chance"),
        (CutsGradient, "training did not change the head fc"),
        (Overflows, "values are not finite"),
        (Raises, "training raises NotImplementedError: no kernel for this"),
    ],
)
def test_a_backbone_that_misbehaves_on_the_device_fails(
    run: Callable[..., Any], make_case: MakeCase, device: torch.device, build: type[nn.Module], message: str
) -> None:
    on_cpu = run_check("frozen_backbone", make_case(build=build, native=None, device="cpu"))
    assert (on_cpu.outcome, on_cpu.evidence) == ("passed", "numeric"), on_cpu.message
    finding = run("frozen_backbone", build)
    assert finding.outcome == "failed"
    assert finding.message.startswith(f"on {device}, ")
    assert message in finding.message


# the engine on the device


def test_a_model_on_the_device_is_swapped_frozen_trained_and_restored(device: torch.device) -> None:
    model: Any = nn.Sequential(nn.Linear(8, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, OLD)).to(device)
    x = torch.randn(BATCH, 8, device="cpu").to(device)
    was = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    swap = swap_head(model, NEW, example_inputs=x)
    assert all(value.device == device for value in swap.state_dict().values())
    frozen = freeze_backbone(swap)
    optimizer = torch.optim.SGD(swap.parameters(), lr=0.1)
    head = model[3].weight.detach().cpu().clone()
    for _ in range(2):
        model.train()(x).square().sum().backward()
        optimizer.step()
    now = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    assert [name for name in was if not name.startswith("3.") and not torch.equal(was[name], now[name])] == []
    assert not torch.equal(now["3.weight"], head)
    frozen.unfreeze()
    swap.restore()
    assert all(torch.equal(value.detach().cpu(), was[name]) for name, value in model.state_dict().items())


def test_a_frozen_model_that_is_moved_stays_frozen(device: torch.device) -> None:
    model: Any = nn.Sequential(nn.Linear(8, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, OLD))
    x = torch.randn(BATCH, 8)
    swap = swap_head(model, NEW, example_inputs=x)
    freeze_backbone(swap)
    model.to(device)
    was = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model.train()(x.to(device)).square().sum().backward()
    optimizer.step()
    now = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    assert [name for name in was if not torch.equal(was[name], now[name])] == ["3.weight", "3.bias"]


def test_a_swap_that_moved_to_the_device_is_restored_and_reapplied_there(device: torch.device) -> None:
    model: Any = nn.Sequential(nn.Linear(8, WIDTH), nn.ReLU(), nn.Linear(WIDTH, OLD))
    x = torch.randn(BATCH, 8)
    before = model(x).detach()
    swap = swap_head(model, NEW, example_inputs=x)
    model.to(device)
    with torch.no_grad():
        for value in swap.parameters():
            value.fill_(2)
    swap.restore()
    torch.testing.assert_close(model(x.to(device)).detach().cpu(), before, atol=1e-4, rtol=1e-4)
    swap.reapply()
    assert all(bool((value.detach().cpu() == 2).all()) for value in swap.parameters())
    assert model(x.to(device)).shape == (BATCH, NEW)


def test_a_program_that_has_used_the_device_can_check_models_on_it(
    device: torch.device, pytestconfig: pytest.Config
) -> None:
    assert torch.ones(2, device=device).sum().item() == 2
    assert device.type in accelerators.started()
    model = nn.Sequential(nn.Linear(8, WIDTH), nn.ReLU(), nn.Linear(WIDTH, OLD))
    results = check_headswap(
        model,
        example_inputs=torch.randn(BATCH, 8),
        checks=["frozen_backbone", "device_placement"],
        device=str(device),
        device_import=pytestconfig.getoption("headswap_device_import") or "",
    )
    assert [(result.outcome, result.evidence) for result in results] == [("passed", str(device))] * 2
