"""The table of `conformance/save_and_load.py` finds models that their library does not load again after a swap."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance.save_and_load import main, save_and_load
from pytest_headswap import ModelSpec


class Net(nn.Module):
    def __init__(self, classes: int = 10, *, width: int = 16, extra: bool = False) -> None:
        super().__init__()
        self.neck, self.fc = nn.Linear(8, width), nn.Linear(width, classes)
        self.extra = nn.Linear(8, 3) if extra else None

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.neck(x).relu())  # type: ignore[no-any-return]


def spec(native: Any = Net, build: Any = Net) -> ModelSpec:
    return ModelSpec("net", build, lambda _: torch.randn(4, 8), native)


def test_a_model_that_the_library_loads_is_equal() -> None:
    assert save_and_load(spec()) == ("equal", "")


@pytest.mark.parametrize("native", [partial(Net, width=12), partial(Net, extra=True)], ids=["shape", "missing"])
def test_a_model_that_the_library_cannot_load_is_left_out_or_an_error(native: Any) -> None:
    assert save_and_load(spec(native))[0] == "error"
    assert save_and_load(spec(build=partial(_Broken)))[0] == "left out"


class _Broken(Net):
    """A model whose state no model can load."""

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("never")

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> Any:
        raise RuntimeError("never")


def test_other_outputs_are_different() -> None:
    class Shifted(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    assert save_and_load(spec(Shifted)) == ("different", "output")


def test_the_table_counts_the_outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "SAVED.md"
    monkeypatch.setattr(sys, "argv", ["save_and_load.py", "--output", str(table), "builtin:9"])
    assert main() == 0
    text = table.read_text(encoding="utf-8")
    assert "| zoo | models | equal | different | error | left out |" in text
    assert "| builtin | 4 |" in text
