"""`conformance.frozen` freezes and trains the models of a zoo, and reports every backbone that changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance import frozen
from conformance.sampled_models import sample
from pytest_headswap import ModelSpec, load_zoo


class Drifting(nn.Module):
    """A model whose weight changes where the engine does not look: in a backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Any:
        logits = self.fc(self.body(x))
        if logits.requires_grad and not logits.is_meta:
            logits.register_hook(self._drift)
        return logits

    def _drift(self, _: Tensor) -> None:
        self.body.weight.data.mul_(0.5)


class Noisy(Drifting):
    """A model with dropout in eval mode."""

    def forward(self, x: Tensor) -> Any:
        return self.fc(nn.functional.dropout(self.body(x)))


def outcome(build: Any) -> str:
    return frozen.freeze_and_train("mine", ModelSpec("net", build, lambda _: torch.zeros(2, 8))).outcome


def test_the_outcome_tells_what_happened() -> None:
    assert outcome(Noisy) == "refused"
    assert outcome(lambda: nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 10))) == "kept"
    assert outcome(nn.Flatten) == "no head"
    assert outcome(lambda: 1 / 0) == "error"


def test_a_weight_that_changes_in_the_backward_pass_is_named() -> None:
    result = frozen.freeze_and_train("mine", ModelSpec("net", Drifting, lambda _: torch.zeros(2, 8)))
    assert (result.outcome, result.detail) == ("changed", "body.weight")


def test_the_table_counts_the_models_of_a_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "FROZEN.md"
    monkeypatch.setattr("sys.argv", ["frozen.py", "--output", str(table), "builtin:12"])
    assert frozen.main() == 0
    count = len(load_zoo("builtin").names[::12])
    assert f"| builtin | {count} |" in table.read_text(encoding="utf-8")


def test_a_sample_begins_at_a_model_and_takes_every_nth() -> None:
    names = load_zoo("builtin").names
    assert [spec.name for spec in sample("builtin:5:2").specs()] == list(names[2::5])
    assert [spec.name for spec in sample("builtin").specs()] == list(names)


@pytest.mark.parametrize(
    "text", ["builtin:0", "builtin:x", "builtin:-1", "builtin:", "builtin:1:2:3", "nozoo", "nozoo:3"]
)
def test_a_sample_that_cannot_be_taken_is_a_usage_error(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["frozen.py", text])
    with pytest.raises(SystemExit):
        frozen.main()
    assert text.partition(":")[0] in capsys.readouterr().err.splitlines()[-1]
