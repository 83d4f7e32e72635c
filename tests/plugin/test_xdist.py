"""With xdist, results are the same, a model stays on one worker, and a crash affects one result."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_headswap.results import Result, read_journal

pytest.importorskip("xdist")

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

# notes which Python built a model, and where it found the plugin
NOTING = """
import sys
import pytest_headswap

def noting():
    with open(os.path.join(os.path.dirname(__file__), "pythons.txt"), "a") as file:
        file.write(f"{sys.prefix}\\n")
    return Net()

SPECS = {f"model_{number}": dict(build=noting, build_native=Net) for number in range(4)}
"""

THREE = "--headswap-checks=output_shape,native_parity,gradient_flow"


def _comparable(results: dict[str, Result]) -> list[Result]:
    """Return the results without the fields that differ between runs."""
    return sorted(
        (replace(result, seconds=0, peak_memory_mb=None) for result in results.values()), key=lambda item: item.nodeid
    )


def test_two_workers_produce_the_same_results_as_none(project: pytest.Pytester, journal: Journal) -> None:
    alone = project.runpytest_subprocess("--headswap-zoo=testzoo", THREE, "--headswap-num-classes=3")
    results = journal()
    header, _ = read_journal(project.path / "headswap-report")
    (project.path / "builds.txt").unlink()
    shared = project.runpytest_subprocess("--headswap-zoo=testzoo", THREE, "--headswap-num-classes=3", "-n", "2", "-v")
    assert shared.ret == alone.ret == pytest.ExitCode.TESTS_FAILED
    assert _comparable(journal()) == _comparable(results)
    assert read_journal(project.path / "headswap-report")[0].options == header.options
    counts = "testzoo: 24 results: 10 passed, 1 failed, 4 skipped, 9 error"
    alone.stdout.fnmatch_lines([counts])
    shared.stdout.fnmatch_lines(["scheduling tests via ModelScheduler", "*", counts])

    built = [line.split() for line in (project.path / "builds.txt").read_text().splitlines()]
    places = {(model, worker) for model, worker in built}
    assert len(places) == len({model for model, _ in built}) == 8, "each model is built on one worker"
    assert len({worker for _, worker in built}) == 2, "both workers had models"


def test_a_crash_is_a_result_and_the_run_continues(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "SPECS = {'alpha': SPECS['alpha'], 'crashing': dict(build=crash, family='bad'), 'zeta': dict(build=Net)}"
    )
    result = project.runpytest_subprocess(
        "--headswap-zoo=testzoo", "--headswap-checks=output_shape,gradient_flow", "-n", "2"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    results = journal()
    assert {item.nodeid: item.outcome for item in results.values()} == {
        "testzoo::alpha::output_shape": "passed",
        "testzoo::alpha::gradient_flow": "passed",
        "testzoo::crashing::output_shape": "crashed",
        "testzoo::crashing::gradient_flow": "crashed",
        "testzoo::zeta::output_shape": "passed",
        "testzoo::zeta::gradient_flow": "passed",
    }
    crashed = results["testzoo::crashing::output_shape"]
    assert crashed.message == "the process of the model ended with exit status 17 while building the model"
    assert crashed.repro == (
        "pytest --headswap-zoo=testzoo --headswap-models=crashing --headswap-checks=output_shape"
        " --headswap-report=headswap-repeat"
    )
    assert (crashed.zoo, crashed.model, crashed.check, crashed.family) == ("testzoo", "crashing", "output_shape", "bad")
    result.stdout.fnmatch_lines(["testzoo: 6 results: 4 passed, 2 crashed"])


def test_a_zoo_in_the_ini_file_and_the_tests_of_the_project_share_the_workers(
    project: pytest.Pytester, journal: Journal
) -> None:
    checks = "output_shape,metadata,round_trip"
    project.makeini(f"[pytest]\nheadswap_zoo = testzoo\nheadswap_models = alpha\nheadswap_checks = {checks}\n")
    project.makepyfile(test_own="import pytest\n@pytest.mark.parametrize('n', range(5))\ndef test_mine(n):\n    pass\n")
    project.runpytest_subprocess("-n", "2").assert_outcomes(passed=8)
    assert len(journal()) == 3
    project.runpytest_subprocess("-n", "2", "test_own.py").assert_outcomes(passed=5)
    assert len(journal()) == 3, "given paths, the run has nothing to do with the zoo and leaves its journal alone"


def test_an_invalid_option_ends_the_run_before_a_worker_starts(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("--headswap-zoo=testzoo", "--headswap-models=alpa", "-n", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unknown model 'alpa'*did you mean alpha*"])
    assert "workers" not in result.stdout.str()


def test_without_xdist_installed_a_zoo_runs(project: pytest.Pytester) -> None:
    project.runpytest_subprocess(
        "--headswap-zoo=testzoo", "--headswap-models=alpha", THREE, "-p", "no:xdist"
    ).assert_outcomes(passed=3)


@pytest.fixture
def other_python(tmp_path: Path) -> Path:
    """Return the Python of a separate environment that can import the packages installed here."""
    done = subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "other")], check=False)
    folder = tmp_path / "other" / ("Scripts" if os.name == "nt" else "bin")
    python = next(folder.glob("python*"), None) if folder.exists() else None
    if done.returncode or python is None:
        pytest.skip("no environment can be made here")
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([str(python), "-c", purelib], capture_output=True, text=True, check=True).stdout.strip()
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(Path(__file__).parents[2])}
    Path(site, "lent.pth").write_text("\n".join(sorted(lent)), encoding="utf-8")
    probe = subprocess.run([str(python), "-c", "import torch, xdist, pytest_headswap"], check=False)
    if probe.returncode:
        pytest.skip("an environment does not see what is installed here")
    return python


def test_workers_of_another_python_installation_share_the_models(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, other_python: Path
) -> None:
    extend_conftest(NOTING)
    result = project.runpytest_subprocess(
        "--headswap-zoo=testzoo", THREE, "-d", "--tx", f"popen//python={other_python}", "--tx", "popen"
    )
    result.assert_outcomes(passed=12)
    result.stdout.fnmatch_lines(["headswap: testzoo (4 of *", "testzoo: 12 results: 12 passed"])
    assert {item.outcome for item in journal().values()} == {"passed"}
    pythons = set((project.path / "pythons.txt").read_text(encoding="utf-8").splitlines())
    assert pythons == {str(other_python.parent.parent), sys.prefix}


def test_another_python_installation_computes_the_same_shard(
    project: pytest.Pytester, journal: Journal, other_python: Path
) -> None:
    flags = ["--headswap-zoo=testzoo", "--headswap-checks=metadata", "--headswap-shard=1/2"]
    project.runpytest_inprocess(*flags)
    alone = journal().keys()
    project.runpytest_subprocess(*flags, "-d", "--tx", f"popen//python={other_python}")
    assert journal().keys() == alone
