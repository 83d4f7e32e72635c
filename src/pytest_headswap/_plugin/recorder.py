"""Writes the journal, and at the end the reports. Lives in the controller alone, so the journal has one writer."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap._docs import page
from pytest_headswap._plugin.expectations.apply import judge_report
from pytest_headswap._plugin.expectations.judge import NOT_RUN, NOT_RUN_MEANS
from pytest_headswap._plugin.facts import facts_of
from pytest_headswap._plugin.failure import message_of
from pytest_headswap._plugin.ids import CheckId, parse_id, repro_command
from pytest_headswap._plugin.options import Settings
from pytest_headswap._plugin.reports import ATTRIBUTE, NO_FACTS
from pytest_headswap._plugin.worst import worst_lines
from pytest_headswap.report import OUTCOMES, JournalError, JournalHeader, JournalWriter, Result
from pytest_headswap.report.merge import shard_options

if TYPE_CHECKING:
    from pytest_headswap._plugin.resume import Resume
    from pytest_headswap.report.write import Reports


class Recorder:
    """Turns the reports of the phases of a test into one result."""

    def __init__(self, config: pytest.Config, settings: Settings, resume: Resume | None = None) -> None:
        self.config = config
        self.settings = settings
        self.resume = resume
        self.journal: JournalWriter | None = None
        self.counts: dict[str, Counter[str]] = {}
        self.skips: Counter[str] = Counter()
        self.unwritten = 0
        self.problem = ""
        self.reports: Reports | None = None
        self.no_reports = ""
        self._facts: dict[str, dict[str, Any]] = {}
        self._seconds: dict[str, float] = {}
        self._told: set[tuple[str, str]] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Begin a journal; a listing of tests leaves the one of the last run alone."""
        if session.config.option.collectonly:
            return
        taken = self.resume.taken if self.resume is not None else ()
        try:
            self.journal = JournalWriter(self.settings.report, header_of(self.settings), taken)
        except JournalError as error:
            raise pytest.UsageError(f"{error} with --headswap-report") from error
        for result in taken:
            self._tell(result)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather the phases of a test, and write its result after the last.

        First of all, since the report of a worker that died is changed here where that is expected.
        """
        facts = getattr(report, ATTRIBUTE, None)
        if facts is None:
            self._crashed(report)
            return
        setattr(report, ATTRIBUTE, NO_FACTS)  # pytest keeps all reports to the end
        nodeid = report.nodeid
        self._seconds[nodeid] = self._seconds.get(nodeid, 0.0) + report.duration
        if facts:  # the last phase to say something wins: a failing teardown turns a pass into an error
            self._facts[nodeid] = facts
        if report.when == "teardown":
            self._finish(nodeid)

    def _finish(self, nodeid: str) -> None:
        with _uninterrupted():  # a result is written once, and not lost
            facts, seconds = self._facts.pop(nodeid, None), self._seconds.pop(nodeid, 0.0)
            if facts is None:
                return
            model = facts["zoo"], facts["model"]
            if model in self._told:  # once for each model is enough, and keeps the journal small
                facts = {**facts, "anatomy": None}
            elif facts["anatomy"] is not None:
                self._told.add(model)
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
            try:
                self.journal.write(result)
            except JournalError as error:
                self._cannot_write(error)
        self._tell(result)

    def _cannot_write(self, error: JournalError) -> None:
        """Say so loudly, once, and go on: what is found can still be seen, and what was written stays."""
        self.unwritten += 1
        if self.unwritten == 1:
            self.problem = f"{error}. The run goes on, and its results are shown, but not all are kept"
            reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
            if reporter is not None:
                reporter.ensure_newline()
                reporter.write_line(f"headswap: WARNING: {self.problem}", red=True, bold=True)

    def _tell(self, result: Result) -> None:
        self.config.hook.pytest_headswap_result(config=self.config, result=result)
        self.counts.setdefault(result.zoo, Counter())[result.outcome] += 1
        if result.outcome == "skipped":
            self.skips[result.reason] += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write down what an interrupted run had found, and close the journal.

        A run that could not keep its results, or that goes on from one with failures, has not succeeded.
        """
        for nodeid in list(self._facts):
            self._finish(nodeid)
        if self.journal is not None:
            self.journal.close()
            self._write_reports(self.journal.path)
        resumed = self.resume is not None and bool(self.resume.taken)
        if resumed and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # all was done before
        bad = self.unwritten or (self.resume is not None and self.resume.failures)
        if bad and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _write_reports(self, journal: Path) -> None:
        """Make the reports of what was written; the run is as good without them, so whatever is wrong is only told."""
        from pytest_headswap.report.write import write_reports

        try:
            self.reports = write_reports(journal, self.settings.report)
        except Exception as error:  # noqa: BLE001 - a full disk, a folder that somebody has open, or a fault of ours
            self.no_reports = message_of(error)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """How many results of each kind, what was skipped for which reason, the worst, and where the reports are."""
        if self.journal is None or not self.counts:
            return
        terminalreporter.section("headswap", sep="=")
        for zoo, counts in self.counts.items():
            listed = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])
            terminalreporter.write_line(f"{zoo}: {counts.total()} results: {listed}")
        for reason, count in self.skips.most_common():
            terminalreporter.write_line(f"  skipped {count}: {_explained(reason)}")
        if self.skips:
            terminalreporter.write_line(f"  the codes are explained at {page('errors')}")
        if self.resume is not None:
            for line in self.resume.summary():
                terminalreporter.write_line(line)
        if self.reports is not None:
            for line in worst_lines(self.reports.matrix, terminalreporter._tw.fullwidth):
                terminalreporter.write_line(line)
            terminalreporter.write_line(f"report: {self.reports.html}")
        if self.no_reports:
            terminalreporter.write_line(f"warning: the report was not written: {self.no_reports}", yellow=True)
        terminalreporter.write_line(f"journal: {self.journal.path}")
        if self.unwritten:
            lost = f"WARNING: {self.unwritten} results are not in the journal: {self.problem}"
            terminalreporter.write_line(lost, red=True, bold=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A block that Ctrl-C waits for, where the system can do that."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def header_of(settings: Settings) -> JournalHeader:
    """The first line of the journal of a run."""
    options = {
        "zoo": [zoo.name for zoo, _ in settings.zoos],
        "models": settings.models,
        "checks": [check.name for check in settings.checks],
        **asdict(settings.options),
    }
    if settings.shard is not None:
        part = {zoo.name: names for zoo, names in settings.zoos}
        options |= shard_options(str(settings.shard), part, {zoo.name: names for zoo, names in settings.whole})
    return JournalHeader(_versions(settings), options)


def _explained(reason: str) -> str:
    from pytest_headswap.checks import SKIP_REASONS
    from pytest_headswap.engine import REASONS

    if not reason:
        return "without a reason code"
    ours = {**SKIP_REASONS, **REASONS, NOT_RUN: NOT_RUN_MEANS}
    return f"[{reason}] {ours.get(reason, '')}".rstrip()  # a check of the user's has its own codes


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
