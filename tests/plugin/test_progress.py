"""A run reports its progress on separate lines between pytest's dots."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from pytest_headswap.plugin.planning import progress
from pytest_headswap.plugin.planning.progress import Progress
from pytest_headswap.plugin.planning.run_plan import RunEstimate
from tests.work import calls_of

ZOO = "--headswap-zoo=testzoo"
CHECKS = "--headswap-checks=output_shape,metadata"
TWO = "--headswap-models=alpha,lonely"
LINE = re.compile(
    r"^headswap: (\d) of (\d) models done, about (a minute|\d+ minutes|\d+ h \d+ min) left$", re.MULTILINE
)

Extend = Callable[[str], None]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line after each test."""
    monkeypatch.setattr(progress, "MIN_INTERVAL", 0.0)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("flags", [[], ["-v"], ["-q"], ["-n", "2"], ["-n", "2", "-v"]], ids=" ".join)
def test_progress_is_printed_on_separate_lines(project: pytest.Pytester, flags: list[str]) -> None:
    if "-n" in flags:
        pytest.importorskip("xdist")
    result = project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha,beta*,lonely", *flags)
    assert result.ret == 0
    told = LINE.findall(result.stdout.str())
    assert {models for _, models, _ in told} == {"3"}
    done = [int(done) for done, _, _ in told]
    if "-n" in flags:
        assert done == sorted(done), "how many are done when depends on the workers"
    else:
        assert done == [0, 1, 1, 2, 2], "behind the last test, pytest has something to say itself"
    assert "headswap: " not in re.sub(r"(?m)^headswap: ", "", result.stdout.str()), "each begins a line"
    if "-v" not in flags:
        dots = "".join(re.findall(r"^(?:testzoo )?([.]+)(?: +\[ *\d+%\])?$", result.stdout.str(), re.MULTILINE))
        assert dots == "......", "no dot is lost"


@pytest.mark.usefixtures("often")
def test_quiet_runs_print_no_progress(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, CHECKS, TWO, "-q", "-q")
    assert "models done" not in result.stdout.str()
    assert project.runpytest_inprocess(ZOO, CHECKS, TWO, "-p", "no:terminal").ret == 0


def test_a_short_run_prints_no_progress(project: pytest.Pytester) -> None:
    assert "models done" not in project.runpytest_inprocess(ZOO, CHECKS, TWO).stdout.str()


@pytest.mark.usefixtures("often")
def test_a_crash_counts_as_done(project: pytest.Pytester, extend_conftest: Extend) -> None:
    pytest.importorskip("xdist")
    extend_conftest("SPECS = {'a': dict(build=Net), 'crashing': dict(build=crash), 'z': dict(build=Net)}")
    result = project.runpytest_inprocess(ZOO, CHECKS, "-n", "2")
    assert max(int(done) for done, _, _ in LINE.findall(result.stdout.str())) == 2, "before the last test"


class Clock:
    """Time that passes only when it is told to."""

    now = 100.0

    def perf_counter(self) -> float:
        """As in the module `time`."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the progress."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def _progress(seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> tuple[Progress, list[str]]:
    monkeypatch.setattr(progress, "run_estimate", lambda config, settings: RunEstimate(seconds, "known"))
    nothing: Any = None
    made, lines = Progress(nothing, nothing), list[str]()
    monkeypatch.setattr(made, "_write", lines.append)
    return made, lines


def test_the_time_left_follows_expected_costs_and_the_clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    made, lines = _progress({"z::long": 90.0, "z::short": 10.0}, monkeypatch)
    made.pytest_xdist_node_collection_finished(
        ["own.py::test", *(f"z::{m}::{c}" for m in ("long", "short") for c in "ab")]
    )
    clock.now += 90
    made.pytest_runtest_logfinish("z::long::a")
    assert lines == ["headswap: 0 of 2 models done, about 2 minutes left"], "45 of 100 took 90 seconds: 110 are left"
    clock.now += 29
    made.pytest_runtest_logfinish("z::long::b")
    assert len(lines) == 1, "no more than one in thirty seconds"
    clock.now += 6000
    made.pytest_runtest_logfinish("own.py::test")
    assert lines[1:] == ["headswap: 1 of 2 models done, about 11 minutes left"]
    made.pytest_xdist_node_collection_finished(["z::short::a"])
    assert made.models == 2, "the second worker collects the same"


def test_the_work_for_a_result_does_not_grow_with_the_run(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def finish_all(models: int) -> list[str]:
        ids = [f"z::m{model}::{check}" for model in range(models) for check in range(8)]
        made, lines = _progress({f"z::m{model}": 1.0 for model in range(models)}, monkeypatch)
        made.pytest_xdist_node_collection_finished(ids)
        for nodeid in ids:
            made.pytest_runtest_logfinish(nodeid)
            clock.now += 1
        return lines

    assert calls_of(lambda: finish_all(1000)) < 2.2 * calls_of(lambda: finish_all(500))
    lines = finish_all(12_500)
    assert 3000 < len(lines) < 3500
    assert lines[-1].startswith("headswap: 12,49")
