"""`round_trip` makes small copies, which code that customises copying cannot distinguish from ordinary ones."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.case.case import Case
from pytest_headswap.checks import run_check

MakeCase = Callable[..., Case]

round_trip: Any = importlib.import_module("pytest_headswap.checks.round_trip")  # the package has the function


class CopiedByTorch(nn.Module):
    """A model that torch copies in its usual way."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.backbone(x))  # type: ignore[no-any-return]


class InspectsItself(CopiedByTorch):
    """A model that inspects its modules when it is copied."""

    def __getstate__(self) -> dict[str, Any]:
        for module in self.modules():
            for key, kind in round_trip._REGISTRIES.items():
                assert isinstance(getattr(module, key), kind), key
        return self.__dict__


@pytest.mark.parametrize("kind", [InspectsItself, CopiedByTorch])
@pytest.mark.parametrize("evidence", ["abstract", "numeric"])
def test_a_copy_has_the_same_attributes_and_its_own_registries(
    make_case: MakeCase, kind: type[nn.Module], evidence: str
) -> None:
    case = make_case(build=kind, native=None, evidence=evidence)
    assert run_check("round_trip", case).outcome == "passed", run_check("round_trip", case)
    copied = round_trip._saved_and_loaded(case)
    registry_ids: set[int] = set()
    for (path, module), original in zip(copied.named_modules(), case.model.modules(), strict=True):
        assert list(module.__dict__.keys() - original.__dict__.keys()) == [], path
        assert list(original.__dict__.keys() - module.__dict__.keys()) == [], path
        for key, kind_of_registry in round_trip._REGISTRIES.items():
            registry = module.__dict__[key]
            assert isinstance(registry, kind_of_registry), (path, key)
            assert id(registry) not in registry_ids, (path, key)
            registry_ids.add(id(registry))


def test_registries_are_left_out_only_for_modules_that_torch_copies() -> None:
    plain = round_trip._is_copied_as_torch_does
    assert all(plain(kind) for kind in (nn.Linear, nn.Conv2d, nn.LSTM, nn.MultiheadAttention, nn.Sequential))
    assert not plain(InspectsItself)
    assert not plain(type(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))))
    assert not plain(torch.fx.GraphModule)


def test_a_wrapped_model_passes(make_case: MakeCase) -> None:
    def build() -> nn.Module:
        return nn.DataParallel(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10)))

    finding = run_check("round_trip", make_case(build=build))
    assert (finding.outcome, finding.message) == ("passed", "")
