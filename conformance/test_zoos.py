"""What this project states about public zoos, run as a downstream project would run it.

`conformance/<zoo>.toml` lists every result that is expected to be something else than a pass. A result that is not
listed, an entry that is not needed any more, and a skip for another reason all make the run fail.
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
    """The exit status of a run, what it printed, and its results."""
    command = [sys.executable, "-m", "pytest", f"--headswap-zoo={zoo}", f"--headswap-expectations={HERE}", "-q", *flags]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    print(done.stdout[-5000:], done.stderr[-5000:])
    return done.returncode, done.stdout, read_journal(folder / "headswap-report")[1]


@pytest.mark.conformance
@pytest.mark.parametrize("zoo", sorted(LIBRARIES))
def test_every_architecture_is_accounted_for(zoo: str, tmp_path: Path) -> None:
    pytest.importorskip(LIBRARIES[zoo])
    from pytest_headswap.zoo import load_zoo

    status, printed, results = run(zoo, tmp_path, "-n", "2")
    assert status == 0
    assert {result.model for result in results} == set(load_zoo(zoo).names)
    assert {result.outcome for result in results} <= {"passed", "skipped", "xfailed"}
    assert "with may_pass that nothing needed" not in printed
    assert "without a reason yet" not in printed


def test_the_zoo_of_this_project_is_accounted_for(tmp_path: Path) -> None:
    status, _, results = run("builtin", tmp_path)
    assert status == 0
    models = len({result.model for result in results})
    assert Counter(result.outcome for result in results) == {"passed": 8 * (models - 1), "skipped": 8}
