"""Writes the journal and the summary. Lives in the controller alone, so the journal has one writer."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest

from pytest_headswap._plugin.expectations.apply import judge_report
from pytest_headswap._plugin.facts import facts_of
from pytest_headswap._plugin.ids import CheckId, parse_id, repro_command
from pytest_headswap._plugin.options import Settings
from pytest_headswap._plugin.reports import ATTRIBUTE
from pytest_headswap.report import OUTCOMES, JournalError, JournalHeader, JournalWriter, Result
from pytest_headswap.report.merge import shard_options


class Recorder:
    """Turns the reports of the phases of a test into one result."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.journal: JournalWriter | None = None
        self.counts: dict[str, Counter[str]] = {}
        self.skips: Counter[str] = Counter()
        self._facts: dict[str, dict[str, Any]] = {}
        self._seconds: dict[str, float] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Begin a journal; a listing of tests leaves the one of the last run alone."""
        if session.config.option.collectonly:
            return
        settings = self.settings
        options = {
            "zoo": [zoo.name for zoo, _ in settings.zoos],
            "models": settings.models,
            "checks": [check.name for check in settings.checks],
            **asdict(settings.options),
        }
        if settings.shard is not None:
            part = {zoo.name: names for zoo, names in settings.zoos}
            options |= shard_options(str(settings.shard), part, {zoo.name: names for zoo, names in settings.whole})
        try:
            self.journal = JournalWriter(settings.report, JournalHeader(_versions(settings), options))
        except JournalError as error:
            raise pytest.UsageError(f"{error} with --headswap-report") from error

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather the phases of a test, and write its result after the last.

        First of all, since the report of a worker that died is changed here where that is expected.
        """
        facts = getattr(report, ATTRIBUTE, None)
        if facts is None:
            self._crashed(report)
            return
        nodeid = report.nodeid
        self._seconds[nodeid] = self._seconds.get(nodeid, 0.0) + report.duration
        if facts:  # the last phase to say something wins: a failing teardown turns a pass into an error
            self._facts[nodeid] = facts
        if report.when == "teardown":
            self._finish(nodeid)

    def _finish(self, nodeid: str) -> None:
        facts, seconds = self._facts.pop(nodeid, None), self._seconds.pop(nodeid, 0.0)
        if facts is not None:
            self._write(Result.from_json({**facts, "seconds": round(seconds, 4)}))

    def _crashed(self, report: pytest.TestReport) -> None:
        """The worker of a test died; xdist then reports the test itself, and nothing of ours is on that report."""
        test = parse_id(report.nodeid)
        if test is None or report.when in ("setup", "call", "teardown") or not self._is_ours(test):
            return
        self._facts.pop(report.nodeid, None)
        seconds = self._seconds.pop(report.nodeid, 0.0)
        zoo = next(zoo for zoo, _ in self.settings.zoos if zoo.name == test.zoo)
        facts = facts_of(
            test,
            "crashed",
            message=str(report.longrepr),
            reason="",
            repro=repro_command(test, self.settings.options),
            family=zoo[test.model].family,
        )
        facts = judge_report(self.settings.expectations, report, facts, facts["repro"])
        self._write(Result.from_json({**facts, "seconds": round(seconds, 4)}))

    def _is_ours(self, test: CheckId) -> bool:
        return any(zoo.name == test.zoo and test.model in zoo.names for zoo, _ in self.settings.zoos)

    def _write(self, result: Result) -> None:
        if self.journal is not None:
            self.journal.write(result)
        self.config.hook.pytest_headswap_result(config=self.config, result=result)
        self.counts.setdefault(result.zoo, Counter())[result.outcome] += 1
        if result.outcome == "skipped":
            self.skips[result.reason] += 1

    def pytest_sessionfinish(self) -> None:
        """Write down what an interrupted run had found, and close the journal."""
        for nodeid in list(self._facts):
            self._finish(nodeid)
        if self.journal is not None:
            self.journal.close()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """How many results of each kind, what was skipped for which reason, and where the journal is."""
        if self.journal is None or not self.counts:
            return
        terminalreporter.section("headswap", sep="=")
        for zoo, counts in self.counts.items():
            listed = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])
            terminalreporter.write_line(f"{zoo}: {counts.total()} results: {listed}")
        for reason, count in self.skips.most_common():
            terminalreporter.write_line(f"  skipped {count}: {_explained(reason)}")
        terminalreporter.write_line(f"journal: {self.journal.path}")


def _explained(reason: str) -> str:
    from pytest_headswap.checks import SKIP_REASONS
    from pytest_headswap.engine import REASONS

    if not reason:
        return "without a reason code"
    return f"[{reason}] {(SKIP_REASONS | REASONS).get(reason, '')}".rstrip()  # a check of the user's has its own codes


def _versions(settings: Settings) -> dict[str, str]:
    versions = {}
    for distribution in ("pytest-headswap", "pytest", "torch"):
        try:
            versions[distribution] = version(distribution)
        except PackageNotFoundError:  # such as a torch from a system package
            versions[distribution] = "unknown"
    for zoo, _ in settings.zoos:
        versions.update(zoo.versions)
    return versions
