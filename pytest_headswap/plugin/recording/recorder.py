"""Write the journal, and the reports at the end. Used only in the controller, so the journal has one writer."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.harness.build_result import facts_of
from pytest_headswap.harness.failure_text import message_of
from pytest_headswap.plugin.apply_expectations import judge_report
from pytest_headswap.plugin.collection.phase_reports import ATTRIBUTE, NO_FACTS
from pytest_headswap.plugin.collection.verdict import outcome_of
from pytest_headswap.plugin.recording.header import header_of
from pytest_headswap.plugin.recording.summary import count_lines, problem_lines
from pytest_headswap.plugin.settings import Settings
from pytest_headswap.report.terminal import worst_lines
from pytest_headswap.results import JournalError, JournalWriter, Outcome, Result, read_journal
from pytest_headswap.results.ids import CheckId, parse_id, repro_command
from pytest_headswap.results.matrix import badness
from pytest_headswap.results.missing import selection_of, sentences_of

if TYPE_CHECKING:
    from pytest_headswap.plugin.recording.resume import Resume
    from pytest_headswap.report.write import Reports
    from pytest_headswap.results.lock import FolderLock

_PHASES = ("setup", "call", "teardown")


class Recorder:
    """Combines the reports of a test's phases into one result."""

    def __init__(
        self, config: pytest.Config, settings: Settings, lock: FolderLock | None, resume: Resume | None = None
    ) -> None:
        self.config = config
        self.settings = settings
        self.lock = lock
        self.resume = resume
        self.journal: JournalWriter | None = None
        self.counts: dict[str, Counter[str]] = {}
        self.skips: Counter[str] = Counter()
        self.bad = 0
        self.unwritten = 0
        self.why_unwritten = ""
        self.broken = False
        self.problems: list[str] = []
        self.missing: tuple[str, ...] = ()
        self.reports: Reports | None = None
        self.no_reports = ""
        self._facts: dict[str, dict[str, Any]] = {}
        self._seconds: dict[str, float] = {}
        self._told: set[tuple[str, str]] = set()
        self._names = {zoo.name: frozenset(zoo.names) for zoo, _ in settings.zoos}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Announce the results that are kept from an earlier run."""
        for result in self.resume.taken if self.lock is not None and self.resume is not None else ():
            self._tell(result)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Record the selected tests. Without xdist, they are collected here."""
        self._select(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Record the selected tests. With xdist, every worker collects all of them."""
        self._select(ids)

    def _select(self, nodeids: Iterable[str]) -> None:
        """Start a journal for the selected tests. A run without any keeps the existing journal."""
        if self.lock is None:
            return
        tests = [test for nodeid in nodeids if (test := parse_id(nodeid)) is not None and self._is_ours(test)]
        if tests or self.settings.shard is not None or (self.resume is not None and self.resume.taken):
            self._begin(tests)

    def _begin(self, tests: Iterable[CheckId] = ()) -> None:
        if self.lock is None or self.journal is not None:
            return
        taken = self.resume.taken if self.resume is not None else ()
        known = [(result.zoo, result.model, result.check) for result in taken]
        header = replace(header_of(self.settings), selected=selection_of([*known, *tests]))
        try:
            self.journal = JournalWriter(self.settings.report, header, taken, self.lock)
        except JournalError as error:
            raise pytest.UsageError(f"{error} with --headswap-report") from error

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the reports of a test's phases, and write its result after the last one.

        Runs first, since it changes the report of a worker that died if an entry expects that.
        """
        facts = getattr(report, ATTRIBUTE, None)
        if facts is None:
            facts = self._facts_without_ours(report)
            if facts is None:
                return
        else:
            setattr(report, ATTRIBUTE, NO_FACTS)  # pytest keeps all reports until the end
        nodeid = report.nodeid
        if report.when == "setup" or report.outcome not in ("passed", "failed", "skipped"):
            self._facts.pop(nodeid, None)  # the test starts, or pytest is about to rerun it
        self._seconds[nodeid] = self._seconds.get(nodeid, 0.0) + report.duration
        if report.outcome in ("passed", "failed", "skipped"):
            self._gather(nodeid, self._no_better(report, facts))
        if report.when not in ("setup", "call"):
            self._finish(nodeid)

    def _gather(self, nodeid: str, facts: dict[str, Any]) -> None:
        """Keep the worse of two phases: a failing teardown turns a pass into an error, a skipping one does not."""
        known = self._facts.get(nodeid)
        if facts and (known is None or _rank(facts) <= _rank(known)):
            self._facts[nodeid] = facts

    def _no_better(self, report: pytest.TestReport, facts: dict[str, Any]) -> dict[str, Any]:
        """Return the facts with a bad outcome if the report is a failure: a later hook may have changed the report."""
        if not report.failed or (facts and Result.from_json(facts).bad):
            return facts
        plain = self._plain_facts(report)
        return {**(facts or {}), **plain} if plain is not None else facts

    def _facts_without_ours(self, report: pytest.TestReport) -> dict[str, Any] | None:
        """Return the facts of a report without our annotation; None if it belongs to another test.

        A report lacks the annotation if another plugin replaced it, or if the worker of the test died: xdist then
        reports the test itself.
        """
        test = parse_id(report.nodeid)
        if test is None or not self._is_ours(test):
            return None
        if report.when in _PHASES:
            return self._plain_facts(report) or NO_FACTS
        facts = self._plain_facts(report, "crashed") or NO_FACTS
        return judge_report(self.settings.expectations, report, facts, facts["repro"])

    def _plain_facts(self, report: pytest.TestReport, outcome: Outcome | None = None) -> dict[str, Any] | None:
        """Return the facts that follow from the report alone; None if the outcome is still open."""
        test = parse_id(report.nodeid)
        outcome = outcome or outcome_of(report)
        if test is None or outcome is None:
            return None
        zoo = next(zoo for zoo, _ in self.settings.zoos if zoo.name == test.zoo)
        return facts_of(
            test,
            outcome,
            message=report.longreprtext,
            reason="",
            repro=repro_command(test, self.settings.options.flags(), self.settings.repeat_report),
            family=zoo[test.model].family,
        )

    def _finish(self, nodeid: str) -> None:
        with _uninterrupted():  # each result is written exactly once
            facts, seconds = self._facts.pop(nodeid, None), self._seconds.pop(nodeid, 0.0)
            if facts is None:
                return
            model = facts["zoo"], facts["model"]
            if model in self._told:  # once per model keeps the journal small
                facts = {**facts, "anatomy": None}
            elif facts["anatomy"] is not None:
                self._told.add(model)
            self._write(Result.from_json({**facts, "seconds": round(seconds, 4)}))

    def _is_ours(self, test: CheckId) -> bool:
        return test.model in self._names.get(test.zoo, ())

    def _write(self, result: Result) -> None:
        self._begin()  # in case no hook reported the collected tests
        if self.journal is not None:
            try:
                self.journal.write(result)
            except JournalError as error:
                self._cannot_write(error)
            self._tell_notices()
        self._tell(result)

    def _cannot_write(self, error: JournalError) -> None:
        """Warn once that the journal is not writable, and continue: results are still shown."""
        self.unwritten += 1
        if self.unwritten == 1:
            self.why_unwritten = f"{error}. The run goes on, and its results are shown, but not all are kept"
            self._warn(self.why_unwritten)

    def _broken(self, error: JournalError) -> None:
        """Report that the journal is not what the run wrote; this fails the run."""
        self.broken = True
        if str(error) not in self.why_unwritten:
            self.problems.append(str(error))
            self._warn(str(error))

    def _tell_notices(self) -> None:
        if self.journal is not None:
            for notice in self.journal.notices:
                self.problems.append(notice)
                self._warn(notice)
            self.journal.notices.clear()

    def _warn(self, problem: str) -> None:
        """Print a problem at once; the summary repeats it."""
        reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(f"headswap: WARNING: {problem}", red=True, bold=True)

    def _tell(self, result: Result) -> None:
        self.config.hook.pytest_headswap_result(config=self.config, result=result)
        self.counts.setdefault(result.zoo, Counter())[result.outcome] += 1
        self.bad += result.bad
        if result.outcome == "skipped":
            self.skips[result.reason] += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the results of tests that were interrupted, and close the journal.

        The run fails if it has a bad result, including those kept from an earlier run, or lacks a result.
        """
        for nodeid in list(self._facts):
            self._finish(nodeid)
        if self.journal is not None:
            self._close(self.journal)
        resumed = self.resume is not None and bool(self.resume.taken)
        if resumed and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # the earlier run did everything
        lost = self.unwritten or self.missing or self.broken or (self.journal is not None and self.journal.displaced)
        if (self.bad or lost) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _close(self, journal: JournalWriter) -> None:
        """Close the journal, and build the reports from what is on disk, not from what should have been written."""
        try:
            journal.close()
            header, results = read_journal(journal.path)
        except JournalError as error:
            self._broken(error)
            self.no_reports = str(error)
            return
        finally:
            self._tell_notices()
        if journal.displaced:
            self.missing = sentences_of(header, results)
            self.no_reports = f"`headswap report {journal.path} --output FOLDER` writes it to a folder of its own"
            return
        from pytest_headswap.report.write import reports_of

        try:  # a run is valid without reports, so any problem is only reported
            self.reports = reports_of(header, results, self.settings.report)
            self.missing = self.reports.matrix.missing
        except Exception as error:  # noqa: BLE001 - a full disk, a folder that someone has open, or our own bug
            self.no_reports = message_of(error)
            self.missing = sentences_of(header, results)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the counts, what is missing, the worst results, and where the reports are."""
        if self.journal is None or not (self.counts or self.missing or self.problems):
            return
        terminalreporter.section("headswap", sep="=")
        for line in count_lines(self.counts, self.skips):
            terminalreporter.write_line(line)
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
        for line in problem_lines(self.problems, self.unwritten, self.why_unwritten, self.missing):
            terminalreporter.write_line(line, red=True, bold=True)


def _rank(facts: dict[str, Any]) -> tuple[bool, int]:
    """Return a sort key for facts, lower for worse outcomes."""
    result = Result.from_json(facts)
    return not result.bad, badness(result)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block, if the system supports it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
