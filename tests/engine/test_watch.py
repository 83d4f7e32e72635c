"""A watched run says where tensors of the CPU meet those of the model, and nothing where they may."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytest_headswap.case.abstract_runs import run_modes
from pytest_headswap.engine import abstract_run
from pytest_headswap.engine.abstract.run import meta_run_with_device_checks
from pytest_headswap.engine.dataflow.recorder import record_with_device_checks
from pytest_headswap.engine.pytorch.inputs import Inputs


class Doing(nn.Module):
    """A layer, and something done to what it returns; `loose` is neither parameter nor buffer."""

    def __init__(self, action: Callable[[Doing, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)
        self.register_buffer("table", torch.arange(3.0))
        self.loose = torch.ones(3)
        self.action = action

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the action makes of the features."""
        return self.action(self, self.fc(x))


def _met(action: Callable[[Doing, torch.Tensor], torch.Tensor]) -> tuple[str, ...]:
    model = Doing(action)
    run, graph = record_with_device_checks(model, Inputs((torch.randn(2, 8),)))
    assert run.tensor_kind == graph.tensor_kind == "meta"
    assert (
        run.device_mixes
        == meta_run_with_device_checks(model, Inputs((torch.randn(2, 8),)), training=False).device_mixes
    ), "recorded or not"
    assert run.device_mixes is not None
    assert bool((model.loose == 1).all())
    return run.device_mixes


def _put(_: Doing, x: torch.Tensor) -> torch.Tensor:
    made = torch.zeros_like(x)
    made[:, torch.tensor([0, 2])] = torch.ones(2, 2)
    return made + x


ALLOWED: dict[str, Callable[[Doing, torch.Tensor], torch.Tensor]] = {
    "numbers": lambda m, x: x * 2 + torch.tensor(3.0),
    "made beside the features": lambda m, x: x + torch.arange(3, device=x.device),
    "made like the features": lambda m, x: x + torch.ones_like(x),
    "made as new": lambda m, x: x + x.new_ones(3),
    "brought over": lambda m, x: x + torch.ones(3).to(x.device),
    "brought over by type": lambda m, x: x + torch.ones(3, dtype=torch.float64).to(x),
    "an index": lambda m, x: x[:, torch.tensor([0, 2])],
    "an index that is computed": lambda m, x: x[:, torch.arange(3).flip(0)],
    "the buffer": lambda m, x: x * m.get_buffer("table"),
    "computed on the CPU alone": lambda m, x: x * float(torch.ones(3).sum()),
    "filled from the CPU": lambda m, x: torch.empty_like(x).copy_(torch.ones(2, 3)),
}
SEEN: dict[str, tuple[Callable[[Doing, torch.Tensor], torch.Tensor], str]] = {
    "made on the CPU": (lambda m, x: x + torch.ones(3), "aten::add mixes .* CPU tensor of shape (3,)"),
    "neither parameter nor buffer": (lambda m, x: x * m.loose, "aten::mul mixes .* CPU tensor of shape (3,)"),
    "joined": (lambda m, x: torch.cat([x, torch.zeros(2, 1)], 1), "aten::cat mixes .* CPU tensor of shape (2, 1)"),
    "multiplied": (lambda m, x: x @ torch.ones(3, 4), "aten::mm mixes .* CPU tensor of shape (3, 4)"),
    "an index of the CPU into the CPU": (
        lambda m, x: m.loose[x.argmax(1)] + x[:, :1],
        "aten::index mixes .* CPU tensor of shape (3,)",
    ),
    "values put in": (_put, "aten::index_put_ mixes .* CPU tensor of shape (2, 2)"),
    "chosen": (lambda m, x: torch.where(torch.ones(3) > 0, x, -x), "aten::where mixes .* CPU tensor of shape (3,)"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_a_device_allows_is_not_noted(name: str) -> None:
    assert _met(ALLOWED[name]) == ()


@pytest.mark.parametrize("name", SEEN)
def test_what_a_device_refuses_is_noted(name: str) -> None:
    action, words = SEEN[name]
    operation, shape = words.split(" mixes .* ")
    (sentence,) = _met(action)
    assert sentence.startswith(f"{operation} mixes tensors on the device with a ")
    assert sentence.endswith(shape)


def test_what_leaves_the_device_is_on_the_cpu() -> None:
    run, _ = record_with_device_checks(Doing(lambda m, x: x.cpu()), Inputs((torch.randn(2, 8),)))
    assert run.outputs.device.type == "cpu"


def test_a_model_that_asks_for_values_is_not_watched_but_run_in_the_ordinary_ways() -> None:
    model = Doing(lambda m, x: x if x.sum().item() > 0 else -x)
    with pytest.raises(Exception, match="meta"):
        record_with_device_checks(model, Inputs((torch.randn(2, 8),)))
    run = run_modes(model, Inputs((torch.randn(2, 8),)))[False].run
    assert run is not None
    assert (run.tensor_kind, run.device_mixes) == ("real", None)


def test_without_watching_nothing_is_said() -> None:
    assert abstract_run(Doing(lambda m, x: x + torch.ones(3)), Inputs((torch.randn(2, 8),))).device_mixes is None
