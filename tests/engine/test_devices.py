"""A model is put on another device for a block (real, simulated or meta) and restored afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.engine.abstract.devices import on_fake_device, on_meta_device, on_real_device
from pytest_headswap.engine.abstract.simulated_move import code_names_devices
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import is_fake_tensor_limitation

CUDA = torch.device("cuda:0")


def simulated_run(model: nn.Module, x: torch.Tensor, training: bool = False) -> Any:
    """Run the model once on a simulated CUDA device."""
    with on_fake_device(model, Inputs((x,)), CUDA, [*model.parameters(), *model.buffers()]) as run:
        return run(training)


class Net(nn.Module):
    """A model with a buffer, and a tensor that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)
        self.register_buffer("scale", torch.ones(3))
        self.loose = torch.ones(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.fc(x) * self.scale  # type: ignore[no-any-return]


class UsesLoose(Net):
    """A model that uses a tensor that `to` does not move."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return super().forward(x) * self.loose


class ReadsValues(Net):
    """A model that branches on a value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return super().forward(x if x.sum().item() > 0 else -x)


def _state(model: nn.Module) -> list[tuple[str, int, torch.device, torch.dtype]]:
    state = model.state_dict(keep_vars=True)
    return [(name, id(value), value.device, value.dtype) for name, value in state.items()]


@pytest.mark.parametrize("training", [False, True])
def test_a_simulated_run_returns_tensors_on_the_device(training: bool) -> None:
    model = Net()
    before = _state(model)
    output = simulated_run(model, torch.randn(2, 8), training)
    assert (output.device, tuple(output.shape)) == (CUDA, (2, 3))
    assert _state(model) == before


def test_a_meta_model_can_be_simulated() -> None:
    with torch.device("meta"):
        model = Net()
    assert simulated_run(model, torch.zeros(2, 8)).device == CUDA


def test_a_tensor_that_to_does_not_move_stays_on_the_cpu() -> None:
    with pytest.raises(RuntimeError, match=r"mixes tensors on the device with a CPU tensor of shape \(3,\)") as caught:
        simulated_run(UsesLoose(), torch.randn(2, 8))
    assert not is_fake_tensor_limitation(caught.value)


def test_reading_values_is_a_limitation_of_fake_tensors_and_not_a_fault() -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the type is torch's own
        simulated_run(ReadsValues(), torch.randn(2, 8))
    assert is_fake_tensor_limitation(caught.value)


def test_a_recurrent_layer_does_not_start_the_cuda_driver() -> None:
    model = nn.LSTM(4, 3, batch_first=True)
    output, _ = simulated_run(model, torch.randn(2, 5, 4))
    assert output.device == CUDA


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_model_is_moved_and_restored(dtype: torch.dtype | None) -> None:
    model = Net()
    before = _state(model)
    with on_real_device(model, torch.device("cpu"), dtype):
        assert model.fc.weight.dtype == (dtype or torch.float32)
        with torch.no_grad():
            model.fc.weight.zero_()
    assert _state(model) == before
    assert bool(model.fc.weight.any())


def test_on_meta_device_changes_device_and_dtype_and_restores_them() -> None:
    model = Net()
    before = _state(model)
    with on_meta_device(model, torch.float16):
        assert {(value.device.type, value.dtype) for value in model.state_dict().values()} == {("meta", torch.float16)}
    assert _state(model) == before


class RowsOnCuda(nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return list(filter(lambda row: row.device.type == "cuda", x))


class RowsOfAKind(nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return list(filter(lambda row: row.device.type == "round", x))


@pytest.mark.parametrize(("build", "expected"), [(RowsOnCuda, True), (RowsOfAKind, False)])
def test_a_lambda_that_names_a_type_of_device_tells_devices_apart(build: type[nn.Module], expected: bool) -> None:
    assert code_names_devices(build()) is expected
