"""Test the script that builds the table of versions from the results of the tox environments."""

from __future__ import annotations

import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

from pytest_headswap.results import JournalHeader, JournalWriter, Result

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "conformance" / "version_matrix.py"

TESTS = '<testsuites><testsuite tests="3210" failures="1" errors="1" skipped="5" time="330.0"/></testsuites>'


def _environment(folder: Path, torch: str, outcome: str) -> None:
    header = JournalHeader({"torch": torch, "timm": "1.0.31"}, {"checks": ["output_shape"]})
    with JournalWriter(folder / "zoos", header) as journal:
        journal.write(Result.from_json({"zoo": "timm", "model": "a", "check": "output_shape", "outcome": outcome}))
    (folder / "tests.xml").write_text(TESTS)


def _run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(folder), f"--output={folder / 'VERSIONS.md'}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_table_lists_tests_by_environment_and_zoos_by_torch_version(tmp_path: Path) -> None:
    _environment(tmp_path / "py310-torch24-zoo", "2.4.1", "failed")
    _environment(tmp_path / "py311-torch215-zoo", "2.15.0", "passed")
    done = _run(tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "VERSIONS.md").read_text()
    assert "| py310-torch24-zoo | 3,210 | 2 | 5 | 5.5 |" in text
    assert "| timm | 1 failed | 1 passed |" in text
    assert "| a | **failed** output_shape | passed |" in text
    assert (tmp_path / "matrix" / "index.html").exists()


def test_missing_journals_are_an_error_that_names_the_command(tmp_path: Path) -> None:
    done = _run(tmp_path)
    assert done.returncode == 2
    assert "py310-torch24-zoo" in done.stderr


def test_every_torch_version_in_tox_has_a_torchvision_version() -> None:
    tox = ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    listed = {int(found) for line in tox["tox"]["env_list"].split() for found in _torches(line)}
    named: dict[int, list[str]] = {}
    for line in tox["torch"]["deps"].split("\n"):
        factor, _, requirement = line.partition(": ")
        if factor:
            named.setdefault(int(factor.removeprefix("torch")), []).append(requirement.partition("==")[0])
    assert listed == named.keys() >= {24, 215}
    assert all(names == ["torch", "torchvision"] for names in named.values())
    assert tox["testenv"]["deps"].split("\n")[1] == "{[torch]deps}"


def _torches(environment: str) -> list[str]:
    found = re.search(r"torch\{?([\d,]+)", environment)
    return found[1].split(",") if found else []
