"""`hub_round_trip` finds swapped models that their library does not load again as they were."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.checks import run_check
from pytest_headswap.zoo import ModelSpec
from tests.checks import opt_in_models as models
from tests.checks.opt_in import NET, Fault, assert_fails, opt_in_case
from tests.checks.test_faults import _class_counts_are_not_updated
from tests.faulty_net import FaultyNet, inputs


def _by_config(model: Any, folder: Path) -> nn.Module:
    torch.save(model.state_dict(), folder / "state.pt")
    loaded = FaultyNet(model.config.num_labels)
    loaded.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    return loaded


def _with_a_new_bias(model: Any, folder: Path) -> nn.Module:
    loaded = _by_config(model, folder)
    if model.fc.out_features != 10:
        nn.init.ones_(loaded.get_parameter("fc.bias"))
    return loaded


def _saved_by(save_and_load: Callable[[nn.Module, Path], nn.Module]) -> ModelSpec:
    return ModelSpec("net", FaultyNet, inputs, save_and_load=save_and_load)


class Net(nn.Module):
    def __init__(self, classes: int = 10, *, width: int = 16, extra: bool = False, shift: float = 0) -> None:
        super().__init__()
        self.neck, self.fc = nn.Linear(8, width), nn.Linear(width, classes)
        self.extra = nn.Linear(8, 3) if extra else None
        self.shift = shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.neck(x).relu()) + self.shift  # type: ignore[no-any-return]


FAULTS = [
    Fault("hub_round_trip", "raises RuntimeError: .*fc.temperature", models.WithTemperature),
    Fault("hub_round_trip", r"the loaded model returns other outputs: output\['logits'\] by", models.ScaledByAttribute),
    Fault("hub_round_trip", "size mismatch", None, _saved_by(_by_config), _class_counts_are_not_updated),
    Fault("hub_round_trip", r"returns other outputs: output\['logits'\]", None, _saved_by(_with_a_new_bias)),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_planted_fault_fails(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_fails(fault, monkeypatch)


def test_a_model_that_its_library_never_loads_is_not_the_fault_of_the_swap() -> None:
    def no_loader(model: nn.Module, folder: Path) -> nn.Module:
        raise OSError("no such format")

    finding = run_check("hub_round_trip", opt_in_case(_saved_by(no_loader)))
    assert (finding.outcome, finding.reason) == ("skipped", "fails_before_swap")
    assert "cannot be saved and loaded by its library before the swap either" in finding.message
    assert "no such format" in finding.message


def test_the_users_own_module_keeps_its_modes_if_it_does_not_load() -> None:
    own = Net().train()
    case = opt_in_case(ModelSpec("net", lambda: own, inputs, lambda num_classes: Net(num_classes, shift=1.0)))
    assert run_check("hub_round_trip", case).outcome == "failed"
    assert all(module.training for module in own.modules())


def test_a_model_too_large_for_a_copy_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_headswap.case.real_runs._MAX_COPIED_BYTES", 100)
    finding = run_check("hub_round_trip", opt_in_case(NET))
    assert (finding.outcome, finding.reason) == ("skipped", "too_large")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 12}, "size mismatch for neck.weight"),
        ({"extra": True}, "Missing key.*extra.weight"),
        ({"shift": 1.0}, "the loaded model returns other outputs: output by"),
    ],
)
def test_a_native_model_that_differs_from_the_swapped_one_fails(options: dict[str, Any], message: str) -> None:
    spec = ModelSpec("net", Net, inputs, lambda num_classes: Net(num_classes, **options))
    finding = run_check("hub_round_trip", opt_in_case(spec))
    assert finding.outcome == "failed"
    assert re.search(message, finding.message)
