"""How far a run is, in a line of its own between pytest's dots: models done, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import pytest

from pytest_headswap.plugin.planning.run_plan import plan_line, plan_of, told_duration
from pytest_headswap.plugin.settings import Settings

INTERVAL = 30.0
"""Seconds between two lines, at least."""


class Progress:
    """Counts tests as they end. Lives in the controller alone; what a test costs here does not grow with their number.

    What is left is worth as much time as what is done took, by expected cost. A check counts as its part of the model.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.models = 0
        self.models_done = 0
        self._open: dict[str, int] = {}
        self._share: dict[str, float] = {}
        self._total = self._done = 0.0
        self._started = self._told = 0.0

    def pytest_report_header(self) -> str:
        """What is planned, in one line."""
        return plan_line(self.config, self.settings)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without xdist, the tests are collected here."""
        self._expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """With xdist, each worker collects all of them."""
        if not self._open:
            self._expect(ids)

    def _expect(self, nodeids: Iterable[str]) -> None:
        seconds = plan_of(self.config, self.settings).seconds
        for nodeid in nodeids:
            model = nodeid.rpartition("::")[0]
            if model in seconds:
                self._open[model] = self._open.get(model, 0) + 1
        self.models = len(self._open)
        self._share = {model: seconds[model] / tests for model, tests in self._open.items()}
        self._total = sum(seconds[model] for model in self._open)
        self._started = self._told = time.perf_counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A worker died; xdist tells it with a report alone."""
        if report.when not in ("setup", "call", "teardown"):
            self._finish(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test has ended, and pytest has written its dot. At the end of all, pytest has something to say itself."""
        self._finish(nodeid)
        now = time.perf_counter()
        if self._done and self.models_done < self.models and now - self._told >= INTERVAL:
            self._told = now
            self._write(self.line(now))

    def _finish(self, nodeid: str) -> None:
        model = nodeid.rpartition("::")[0]
        tests = self._open.get(model, 0)
        if tests:
            self._open[model] = tests - 1
            self._done += self._share[model]
            self.models_done += tests == 1

    def line(self, now: float) -> str:
        """How far the run is."""
        left = (now - self._started) * max(0.0, self._total - self._done) / self._done
        return f"headswap: {self.models_done:,} of {self.models:,} models done, about {told_duration(left)} left"

    def _write(self, line: str) -> None:
        reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or self.config.option.verbose < -1:
            return
        place = reporter.currentfspath
        reporter.ensure_newline()
        if reporter._tw.width_of_current_line:  # with xdist, pytest does not know that it is within a line of dots
            reporter._tw.line()
        reporter.write_line(line)
        if self.config.option.verbose <= 0:
            reporter.currentfspath = place  # so that the dots go on, and not begin anew
