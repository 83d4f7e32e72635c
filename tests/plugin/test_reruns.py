"""Reruns of pytest-rerunfailures, and every way to distribute tests, give one result for each test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from pytest_headswap.results import Result

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

# The file of an attempt survives the process of its model.
UNRELIABLE = """
from pytest_headswap import CheckFailed

def attempt(name):
    path = os.path.join(os.path.dirname(__file__), f"attempts-{name}")
    with open(path, "a") as file:
        file.write("x")
    return os.path.getsize(path)

def built_at_the_second_attempt():
    if attempt("build") == 1:
        raise ValueError("the first build fails")
    return Net()

def crashing_once():
    if attempt("crash") == 1:
        os._exit(3)
    return Net()

def third_time_lucky(case):
    if (number := attempt(case.spec.name)) < 3:
        raise CheckFailed(f"attempt {number} fails")

def worse_each_time(case):
    raise CheckFailed(f"attempt {attempt('worse-' + case.spec.name)} fails")

def pytest_headswap_checks():
    return {"lucky": third_time_lucky, "worse": worse_each_time}

SPECS = {
    "alpha": dict(build=Net),
    "late": dict(build=built_at_the_second_attempt),
    "crashing": dict(build=crashing_once),
    "unbuildable": dict(build=unbuildable),
}
"""
RUN = ("--headswap-zoo=testzoo", "--headswap-checks=output_shape,lucky,worse")
OTHER_MODES = ("loadscope", "loadfile", "loadgroup", "worksteal", "no")


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("-n2", "--dist=load"),
        *(pytest.param(("-n2", f"--dist={mode}"), marks=pytest.mark.slow) for mode in OTHER_MODES),
    ],
    ids=" ".join,
)
def test_the_last_attempt_is_the_result(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, flags: tuple[str, ...]
) -> None:
    pytest.importorskip("pytest_rerunfailures")
    if flags:
        pytest.importorskip("xdist")
    extend_conftest(UNRELIABLE)
    result = project.runpytest_subprocess(*RUN, "--reruns=3", *flags)
    outcomes = {nodeid.removeprefix("testzoo::"): found for nodeid, found in journal().items()}  # one line for each
    assert len(outcomes) == 12
    for model in ("alpha", "late", "crashing"):
        assert outcomes[f"{model}::output_shape"].outcome == "passed", outcomes
        assert outcomes[f"{model}::lucky"].outcome == "passed", outcomes
    # workers may share the checks of a model, and the one that runs first spends an attempt on the build
    assert outcomes["alpha::worse"].message == "attempt 4 fails"
    for model in ("late", "crashing"):
        assert outcomes[f"{model}::worse"].message in ("attempt 3 fails", "attempt 4 fails")
    assert {outcomes[f"unbuildable::{check}"].outcome for check in ("output_shape", "lucky", "worse")} == {"error"}
    counts = result.parseoutcomes()
    assert {key: counts[key] for key in ("passed", "failed", "errors")} == {"passed": 6, "failed": 3, "errors": 3}
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["testzoo: 12 results: 6 passed, 3 failed, 3 error"])


def test_a_run_whose_reruns_all_pass_is_green(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    pytest.importorskip("pytest_rerunfailures")
    extend_conftest(UNRELIABLE)
    flags = ("--headswap-checks=output_shape,lucky", "--headswap-models=alpha,late")
    result = project.runpytest_subprocess("--headswap-zoo=testzoo", *flags, "--reruns=2")
    assert result.ret == pytest.ExitCode.OK
    assert Counter(found.outcome for found in journal().values()) == {"passed": 4}


@pytest.mark.parametrize("flags", [("-n2", "--dist=each"), ("--dist=each", "--tx=2*popen")], ids=" ".join)
def test_each_test_on_every_worker_is_refused(project: pytest.Pytester, flags: tuple[str, ...]) -> None:
    pytest.importorskip("xdist")
    result = project.runpytest_subprocess("--headswap-zoo=testzoo", *flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --dist=each runs every test on each worker, but a report has one result*"])
    assert not (project.path / "headswap-report").exists()


def test_a_run_without_zoos_may_use_each_worker(project: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    project.runpytest_subprocess("-n2", "--dist=each").assert_outcomes(passed=2)
