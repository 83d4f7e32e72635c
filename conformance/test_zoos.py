"""Run every check on the public zoos, as a downstream project would.

`conformance/<zoo>.toml` lists every expected result other than a pass. The run fails for an unlisted result, an unused
entry, and a skip for a different reason.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pytest_headswap.report import Result, read_journal

HERE = Path(__file__).parent
LIBRARIES = {"timm": "timm", "torchvision": "torchvision", "transformers": "transformers"}


def run(zoo: str, folder: Path, *flags: str) -> tuple[int, str, list[Result]]:
    """Run a zoo; return the exit status, the output, and the results."""
    command = [sys.executable, "-m", "pytest", f"--headswap-zoo={zoo}", f"--headswap-expectations={HERE}", "-q", *flags]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    print(done.stdout[-5000:], done.stderr[-5000:])
    return done.returncode, done.stdout, read_journal(folder / "headswap-report")[1]


@pytest.mark.conformance
@pytest.mark.parametrize("zoo", sorted(LIBRARIES))
def test_public_zoo_has_only_expected_results(zoo: str, tmp_path: Path) -> None:
    pytest.importorskip(LIBRARIES[zoo])
    from pytest_headswap.zoo import load_zoo

    status, printed, results = run(zoo, tmp_path, "-n", "2")
    assert status == 0
    assert {result.model for result in results} == set(load_zoo(zoo).names)
    assert {result.outcome for result in results} <= {"passed", "skipped", "xfailed"}
    assert "unused entr" not in printed
    assert "without a reason yet" not in printed


@pytest.mark.conformance
@pytest.mark.parametrize("zoo", sorted(LIBRARIES))
def test_found_heads_name_exactly_the_tensors_that_depend_on_the_class_count(zoo: str, tmp_path: Path) -> None:
    pytest.importorskip(LIBRARIES[zoo])
    from conformance import cross_check
    from pytest_headswap.zoo import load_zoo

    loaded = load_zoo(zoo)
    results = cross_check.run(loaded, loaded.names, tmp_path / "results.jsonl")
    assert [result for result in results if result.outcome(zoo) in cross_check.FAILURES] == []
    unused = [
        entry
        for entry in cross_check.EXPLAINED
        if entry.zoo == zoo and not any(entry.covers(zoo, r.model, tensor) for r in results for tensor in r.differences)
    ]
    assert unused == []


def test_builtin_zoo_has_only_expected_results(tmp_path: Path) -> None:
    status, _, results = run("builtin", tmp_path)
    assert status == 0
    models = len({result.model for result in results})
    assert Counter(result.outcome for result in results) == {"passed": 8 * (models - 1), "skipped": 8}
