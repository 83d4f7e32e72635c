"""A run with device checks records each operation that mixes CPU tensors with the model's tensors illegally."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytest_headswap.case.abstract_runs import run_modes
from pytest_headswap.engine import abstract_run, reject_cpu_tensors
from pytest_headswap.engine.abstract.device_mode import RejectCpuTensors
from pytest_headswap.engine.abstract.run import meta_run_with_device_checks
from pytest_headswap.engine.dataflow.recorder import record_with_device_checks
from pytest_headswap.engine.pytorch.inputs import Inputs


class WithAction(nn.Module):
    """A layer followed by an action on its output. `loose` is neither a parameter nor a buffer."""

    def __init__(self, action: Callable[[WithAction, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)
        self.register_buffer("table", torch.arange(3.0))
        self.loose = torch.ones(3)
        self.action = action

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the result of the action on the features."""
        return self.action(self, self.fc(x))


def _device_mixes(action: Callable[[WithAction, torch.Tensor], torch.Tensor]) -> tuple[str, ...]:
    model = WithAction(action)
    run, graph = record_with_device_checks(model, Inputs((torch.randn(2, 8),)))
    assert run.tensor_kind == graph.tensor_kind == "meta"
    assert (
        run.device_mixes
        == meta_run_with_device_checks(model, Inputs((torch.randn(2, 8),)), training=False).device_mixes
    ), "the result must not depend on the recorder"
    assert run.device_mixes is not None
    assert bool((model.loose == 1).all())
    return run.device_mixes


def _write_cpu_values(_: WithAction, x: torch.Tensor) -> torch.Tensor:
    result = torch.zeros_like(x)
    result[:, torch.tensor([0, 2])] = torch.ones(2, 2)
    return result + x


ALLOWED: dict[str, Callable[[WithAction, torch.Tensor], torch.Tensor]] = {
    "numbers": lambda m, x: x * 2 + torch.tensor(3.0),
    "created on the device of the features": lambda m, x: x + torch.arange(3, device=x.device),
    "created like the features": lambda m, x: x + torch.ones_like(x),
    "created by new_ones": lambda m, x: x + x.new_ones(3),
    "moved to the device": lambda m, x: x + torch.ones(3).to(x.device),
    "moved to the device and dtype": lambda m, x: x + torch.ones(3, dtype=torch.float64).to(x),
    "an index": lambda m, x: x[:, torch.tensor([0, 2])],
    "a computed index": lambda m, x: x[:, torch.arange(3).flip(0)],
    "the buffer": lambda m, x: x * m.get_buffer("table"),
    "computed only on the CPU": lambda m, x: x * float(torch.ones(3).sum()),
    "filled from the CPU": lambda m, x: torch.empty_like(x).copy_(torch.ones(2, 3)),
}
REJECTED: dict[str, tuple[Callable[[WithAction, torch.Tensor], torch.Tensor], str]] = {
    "created on the CPU": (lambda m, x: x + torch.ones(3), "aten::add mixes .* CPU tensor of shape (3,)"),
    "neither parameter nor buffer": (lambda m, x: x * m.loose, "aten::mul mixes .* CPU tensor of shape (3,)"),
    "concatenated": (
        lambda m, x: torch.cat([x, torch.zeros(2, 1)], 1),
        "aten::cat mixes .* CPU tensor of shape (2, 1)",
    ),
    "multiplied": (lambda m, x: x @ torch.ones(3, 4), "aten::mm mixes .* CPU tensor of shape (3, 4)"),
    "a CPU tensor indexed from the device": (
        lambda m, x: m.loose[x.argmax(1)] + x[:, :1],
        "aten::index mixes .* CPU tensor of shape (3,)",
    ),
    "values written by index": (_write_cpu_values, "aten::index_put_ mixes .* CPU tensor of shape (2, 2)"),
    "selected by where": (
        lambda m, x: torch.where(torch.ones(3) > 0, x, -x),
        "aten::where mixes .* CPU tensor of shape (3,)",
    ),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_operations_that_a_device_allows_are_not_recorded(name: str) -> None:
    assert _device_mixes(ALLOWED[name]) == ()


@pytest.mark.parametrize("name", REJECTED)
def test_operations_that_a_device_rejects_are_recorded(name: str) -> None:
    action, words = REJECTED[name]
    operation, shape = words.split(" mixes .* ")
    (sentence,) = _device_mixes(action)
    assert sentence.startswith(f"{operation} mixes tensors on the device with a ")
    assert sentence.endswith(shape)


def _run_without_cpu_tensors(action: Callable[[WithAction, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Run the model on the meta device, which stands in for a real one."""
    model = WithAction(action).to("meta")
    with RejectCpuTensors():  # type: ignore[no-untyped-call, unused-ignore]
        return model(torch.empty(2, 8, device="meta"))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ALLOWED)
def test_operations_that_a_device_allows_are_not_rejected(name: str) -> None:
    assert _run_without_cpu_tensors(ALLOWED[name]).is_meta


@pytest.mark.parametrize("name", REJECTED)
def test_operations_that_mix_devices_are_rejected(name: str) -> None:
    action, words = REJECTED[name]
    operation, shape = words.split(" mixes .* ")
    with pytest.raises(RuntimeError) as caught:
        _run_without_cpu_tensors(action)
    assert str(caught.value).startswith(f"{operation} mixes tensors on the device with a ")
    assert str(caught.value).endswith(shape)


def test_packed_sequences_keep_their_lengths_on_the_cpu() -> None:
    def packed(_: WithAction, x: torch.Tensor) -> torch.Tensor:
        return nn.utils.rnn.pack_padded_sequence(x[None], torch.tensor([2]), batch_first=True).data

    assert _run_without_cpu_tensors(packed).is_meta


def test_a_device_that_rejects_cpu_tensors_itself_is_not_watched() -> None:
    for device in ("cpu", "meta"):
        assert not isinstance(reject_cpu_tensors(torch.device(device)), RejectCpuTensors)


def test_a_tensor_moved_to_the_cpu_is_on_the_cpu() -> None:
    run, _ = record_with_device_checks(WithAction(lambda m, x: x.cpu()), Inputs((torch.randn(2, 8),)))
    assert run.outputs.device.type == "cpu"


def test_a_model_that_reads_values_runs_without_device_checks() -> None:
    model = WithAction(lambda m, x: x if x.sum().item() > 0 else -x)
    with pytest.raises(Exception, match="meta"):
        record_with_device_checks(model, Inputs((torch.randn(2, 8),)))
    run = run_modes(model, Inputs((torch.randn(2, 8),)))[False].run
    assert run is not None
    assert (run.tensor_kind, run.device_mixes) == ("real", None)


def test_a_plain_abstract_run_records_no_device_mixes() -> None:
    assert abstract_run(WithAction(lambda m, x: x + torch.ones(3)), Inputs((torch.randn(2, 8),))).device_mixes is None
