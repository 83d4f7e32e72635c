"""`conformance.devices` runs the checks that use a device on one, and writes a section for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from conformance.devices import TABLE, elsewhere, main, setting, write_section
from pytest_headswap.report import JournalHeader, Result


def result(
    model: str, outcome: str = "passed", *, evidence: str = "xla:0", message: str = "", expectation: str = ""
) -> Result:
    data = {"zoo": "timm", "model": model, "check": "frozen_backbone", "outcome": outcome}
    return Result.from_json({**data, "evidence": evidence, "message": message, "expectation": expectation})


def test_a_section_counts_outcomes_and_gives_reasons(tmp_path: Path) -> None:
    results = [
        result("a"),
        result("b"),
        result("c", "xfailed", message="no kernel", expectation="an old device"),
        result("d", "error"),
    ]
    write_section(results, "xla", ["Written now."], tmp_path / "DEVICES.md")
    text = (tmp_path / "DEVICES.md").read_text(encoding="utf-8")
    assert text.startswith("# Real devices\n\n## xla\n\nWritten now.\n")
    assert "| timm | frozen_backbone | 4 | 2 | 1 | 0 | 1 |" in text
    assert "- timm frozen_backbone (xfailed) `c`: no kernel. Expected: an old device\n" in text


def test_the_devices_of_the_journals_and_the_variables_that_choose_them_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    for zoo in ("builtin", "timm"):
        (tmp_path / zoo).mkdir()
        header = json.dumps(JournalHeader(devices=["xla:0 (a chip)"]).to_json())
        (tmp_path / zoo / "results.jsonl").write_text(f"{header}\n", encoding="utf-8")
    assert setting(tmp_path)[0] == "Ran on: xla:0 (a chip)."
    assert "`PJRT_DEVICE=CPU`" in setting(tmp_path)[1]


def test_sections_of_other_devices_are_kept(tmp_path: Path) -> None:
    table = tmp_path / "DEVICES.md"
    for device, model in (("xla", "a"), ("cuda:1", "b"), ("vulkan", "c"), ("xla", "d")):
        write_section([result(model, "failed")], device, [f"Written for {model}."], table)
    lines = table.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("#")] == ["# Real devices", "## cuda:1", "## vulkan", "## xla"]
    assert [line for line in lines if line.startswith("Written")] == [f"Written for {model}." for model in "bcd"]
    assert lines == table.read_text(encoding="utf-8").rstrip("\n").splitlines()


@pytest.mark.parametrize("device", ["xla", "xla:0"])
def test_a_pass_on_another_device_is_named(tmp_path: Path, device: str) -> None:
    results = [result("a"), result("b", evidence="numeric", message="too little memory"), result("c", "failed")]
    (line,) = elsewhere(results, device)
    assert line == "- timm frozen_backbone `b` ran elsewhere (numeric): too little memory"
    write_section(results, device, [], tmp_path / "DEVICES.md")
    assert line in (tmp_path / "DEVICES.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_that_does_not_use_the_device_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = ["--output", str(tmp_path / "DEVICES.md"), "--report", str(tmp_path / "report")]
    monkeypatch.setattr(sys, "argv", ["devices.py", "cpu", "builtin:9", *folders])
    assert main() == 1
    text = (tmp_path / "DEVICES.md").read_text(encoding="utf-8")
    assert "| builtin | device_placement | 4 | 4 | 0 | 0 | 0 |" in text
    assert "ran elsewhere (simulated)" in text


@pytest.mark.skipif(not TABLE.exists(), reason="written by `tox run -e xla,vulkan`")
def test_the_table_in_the_repository_has_no_unexpected_result() -> None:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and "---" not in line]
    counted = [row for row in rows if row[0] != "zoo"]
    assert len(counted) == 8, "two devices, two zoos and two checks"
    assert {row[-1] for row in counted} == {"0"}
    assert all(int(row[2]) >= (40 if row[0] == "timm" else 35) for row in counted)
