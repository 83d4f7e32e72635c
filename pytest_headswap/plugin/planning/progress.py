"""Print the progress of a run on lines between pytest's dots: models done, and estimated time left."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import pytest

from pytest_headswap.plugin.planning.run_plan import format_estimate, plan_header, run_estimate
from pytest_headswap.plugin.settings import Settings

MIN_INTERVAL = 30.0
"""The minimum number of seconds between two lines."""


class Progress:
    """Counts tests as they end. Used only in the controller; the work per test does not grow with the number of tests.

    The time left is estimated from the time so far, weighted by expected cost. Each check counts as an equal part of
    its model.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.models = 0
        self.models_done = 0
        self._open_checks: dict[str, int] = {}
        self._cost_per_check: dict[str, float] = {}
        self._total = self._done = 0.0
        self._started = self._last_printed = 0.0

    def pytest_report_header(self) -> str:
        """Return the plan in one line."""
        return plan_header(self.config, self.settings)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the collected tests. Without xdist, they are collected here."""
        self._expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Count the collected tests. With xdist, every worker collects all of them."""
        if not self._open_checks:
            self._expect(ids)

    def _expect(self, nodeids: Iterable[str]) -> None:
        seconds = run_estimate(self.config, self.settings).seconds
        for nodeid in nodeids:
            model = nodeid.rpartition("::")[0]
            if model in seconds:
                self._open_checks[model] = self._open_checks.get(model, 0) + 1
        self.models = len(self._open_checks)
        self._cost_per_check = {model: seconds[model] / tests for model, tests in self._open_checks.items()}
        self._total = sum(seconds[model] for model in self._open_checks)
        self._started = self._last_printed = time.perf_counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test whose worker died: xdist sends only a report for it."""
        if report.when not in ("setup", "call", "teardown"):
            self._finish(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Count a test that ended, after pytest printed its dot. No line follows the last test."""
        self._finish(nodeid)
        now = time.perf_counter()
        if self._done and self.models_done < self.models and now - self._last_printed >= MIN_INTERVAL:
            self._last_printed = now
            self._write(self.line(now))

    def _finish(self, nodeid: str) -> None:
        model = nodeid.rpartition("::")[0]
        tests = self._open_checks.get(model, 0)
        if tests:
            self._open_checks[model] = tests - 1
            self._done += self._cost_per_check[model]
            self.models_done += tests == 1

    def line(self, now: float) -> str:
        """Return the progress line."""
        left = (now - self._started) * max(0.0, self._total - self._done) / self._done
        return f"headswap: {self.models_done:,} of {self.models:,} models done, about {format_estimate(left)} left"

    def _write(self, line: str) -> None:
        reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or self.config.option.verbose < -1:
            return
        place = reporter.currentfspath
        reporter.ensure_newline()
        if reporter._tw.width_of_current_line:  # with xdist, pytest does not know that a line of dots is open
            reporter._tw.line()
        reporter.write_line(line)
        if self.config.option.verbose <= 0:
            reporter.currentfspath = place  # so that the dots continue on the same row
