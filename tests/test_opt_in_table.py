"""`conformance.opt_in` runs opt-in checks over some models, and writes a table of the outcomes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from conformance.opt_in import main, write_table
from conformance.sampled_models import sample
from pytest_headswap.report import Result


@pytest.mark.slow
def test_the_table_counts_the_outcomes_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, flags = tmp_path / "OPT_IN.md", ["--checks=amp,hub_round_trip", "--max-parameters=1e6"]
    command = ["opt_in.py", "builtin:9", *flags, "--output", str(table), "--report", str(tmp_path / "report")]
    monkeypatch.setattr(sys, "argv", command)
    assert main() == 0
    text = table.read_text(encoding="utf-8")
    assert "| builtin | amp | 4 | 4 | 0 | 0 | 0 |" in text
    assert "| builtin | hub_round_trip | 4 | 4 | 0 | 0 | 0 |" in text
    assert text.endswith("## Details\n\nNone.\n")


def test_the_table_quotes_what_did_not_pass(tmp_path: Path) -> None:
    outcomes = [("b", "export", "failed"), ("a", "export", "xfailed"), ("c", "amp", "skipped")]
    outcomes += [("b", "amp", "skipped"), ("a", "amp", "passed")]
    results = [
        Result.from_json(
            {"zoo": "timm", "model": model, "check": check, "outcome": outcome, "message": f"no\n{check} in {model}"}
        )
        for model, check, outcome in outcomes
    ]
    write_table(results, ["Written now."], tmp_path / "OPT_IN.md")
    lines = (tmp_path / "OPT_IN.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("| timm")] == [
        "| timm | amp | 3 | 1 | 0 | 2 | 0 |",
        "| timm | export | 2 | 0 | 1 | 0 | 1 |",
    ]
    assert lines[-3:] == [
        "- timm amp (skipped) `b`, `c`: no amp in MODEL",
        "- timm export (xfailed) `a`: no export in MODEL",
        "- timm export (failed) `b`: no export in MODEL",
    ]


def test_a_sample_leaves_large_models_out() -> None:
    every = sample("builtin:2")
    names = [spec.name for spec in every.specs()]
    small = [spec.name for spec in every.specs(max_parameters=2_000)]
    assert 0 < len(small) < len(names)
    assert set(small) < set(names)
