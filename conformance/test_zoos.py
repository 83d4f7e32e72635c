"""Run every check on the public zoos, as a downstream project would.

`conformance/<zoo>.toml` lists every expected result other than a pass. The run fails for an unlisted result, an unused
entry, and a skip for a different reason.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_headswap.report import Result, read_journal

HERE = Path(__file__).parent
LIBRARIES = {"timm": "timm", "torchvision": "torchvision", "transformers": "transformers"}


class Run(NamedTuple):
    """A run of a zoo: its exit status, output and results."""

    zoo: str
    status: int
    printed: str
    results: list[Result]


def run(zoo: str, folder: Path, *flags: str) -> Run:
    """Run a zoo with the expectations of this folder."""
    command = [sys.executable, "-m", "pytest", f"--headswap-zoo={zoo}", f"--headswap-expectations={HERE}", "-q", *flags]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    print(done.stdout[-5000:], done.stderr[-5000:])
    return Run(zoo, done.returncode, done.stdout, read_journal(folder / "headswap-report")[1])


@pytest.fixture(scope="module", params=sorted(LIBRARIES))
def whole_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run every check on a whole zoo, once for all tests."""
    pytest.importorskip(LIBRARIES[request.param])
    return run(request.param, tmp_path_factory.mktemp(request.param), "-n", "2")


@pytest.mark.conformance
def test_public_zoo_has_only_expected_results(whole_run: Run) -> None:
    from pytest_headswap.zoo import load_zoo

    assert whole_run.status == 0
    assert {result.model for result in whole_run.results} == set(load_zoo(whole_run.zoo).names)
    assert {result.outcome for result in whole_run.results} <= {"passed", "skipped", "xfailed"}
    assert "unused entr" not in whole_run.printed
    assert "without a reason yet" not in whole_run.printed


@pytest.mark.conformance
def test_heads_of_a_public_zoo_are_those_of_the_atlas(whole_run: Run) -> None:
    from conformance.atlas import FOLDER, Atlas, differences, found_by
    from pytest_headswap.zoo import load_zoo

    atlas = Atlas.read(FOLDER / f"{whole_run.zoo}.tsv")
    if other := atlas.other_version(load_zoo(whole_run.zoo)):
        pytest.skip(other)
    changed = differences(atlas, found_by(whole_run.results))
    command = f"python -m conformance.atlas {whole_run.zoo} -n 2"
    assert not changed, "\n".join([f"heads changed; to accept them: {command}", *changed])


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
    done = run("builtin", tmp_path)
    assert done.status == 0
    models = len({result.model for result in done.results})
    assert Counter(result.outcome for result in done.results) == {"passed": 8 * (models - 1), "skipped": 8}
