"""Write the journal, and the reports at the end. Used only in the controller, so the journal has one writer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.harness.build_result import build_result
from pytest_headswap.harness.failure_text import error_message
from pytest_headswap.isolation.interrupts import interrupts_blocked
from pytest_headswap.plugin.apply_expectations import adjust_report
from pytest_headswap.plugin.collection.phase_reports import NO_RESULT, REPLAY_ATTRIBUTE, REPORT_ATTRIBUTE
from pytest_headswap.plugin.collection.report_outcome import report_outcome
from pytest_headswap.plugin.recording.fold_errors import FoldedErrors
from pytest_headswap.plugin.recording.header import journal_header
from pytest_headswap.plugin.recording.once_per_model import OncePerModel
from pytest_headswap.plugin.recording.summary import count_lines, problem_lines
from pytest_headswap.plugin.settings import Settings
from pytest_headswap.report.terminal import worst_lines
from pytest_headswap.results import JournalError, JournalWriter, Outcome, Result, read_journal
from pytest_headswap.results.completeness import encode_selection, missing_sentences
from pytest_headswap.results.ids import CheckId, parse_id, reproduce_command
from pytest_headswap.results.matrix import severity

if TYPE_CHECKING:
    from pytest_headswap.plugin.recording.keys import Keys
    from pytest_headswap.plugin.recording.resume import Resume
    from pytest_headswap.plugin.recording.since import Since
    from pytest_headswap.report.write import Reports
    from pytest_headswap.results.lock import FolderLock

_PHASES = ("setup", "call", "teardown")


class Recorder:
    """Combines the reports of a test's phases into one result."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        keys: Keys,
        lock: FolderLock | None,
        resume: Resume | None = None,
        since: Since | None = None,
    ) -> None:
        self.config = config
        self.settings, self.keys = settings, keys
        self.lock = lock
        self.resume, self.since = resume, since
        self.journal: JournalWriter | None = None
        self.counts: dict[str, Counter[str]] = {}
        self.skips: Counter[str] = Counter()
        self.failures = 0
        self.unwritten_count = 0
        self.write_error = ""
        self.broken = False
        self.problems: list[str] = []
        self.missing: tuple[str, ...] = ()
        self.reports: Reports | None = None
        self.report_error = ""
        self.folded_errors = FoldedErrors()
        self._results: dict[str, Result] = {}
        self._seconds: dict[str, float] = {}
        self._repeated: set[str] = set()
        self._once_per_model = OncePerModel()
        self._names = {zoo.name: frozenset(zoo.names) for zoo, _ in settings.this_shard}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Announce the results that are kept from an earlier run."""
        for result in self.resume.carried_over if self.lock is not None and self.resume is not None else ():
            self._announce(result)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """Read the code of the models. With xdist, the workers import their packages at the same time."""
        if self.lock is not None:
            self.keys.read_all()

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
        tests = [test for nodeid in nodeids if (test := parse_id(nodeid)) is not None and self._is_zoo_test(test)]
        if tests or self.settings.shard is not None or (self.resume is not None and self.resume.carried_over):
            self._begin(tests)

    def _begin(self, tests: Iterable[CheckId] = ()) -> None:
        if self.lock is None or self.journal is not None:
            return
        self.keys.read_all()
        carried_over = self.resume.carried_over if self.resume is not None else ()
        known = [(result.zoo, result.model, result.check) for result in carried_over]
        header = replace(journal_header(self.settings, self.keys), selected=encode_selection([*known, *tests]))
        try:
            self.journal = JournalWriter(self.settings.report, header, carried_over, self.lock)
        except JournalError as error:
            raise pytest.UsageError(f"{error} with --headswap-report") from error

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the reports of a test's phases, and write its result after the last one.

        Runs first, since it changes the report of a worker that died if an entry expects that.
        """
        nodeid = report.nodeid
        if self.since is not None and hasattr(report, REPLAY_ATTRIBUTE):
            if taken_over := self.since.result_of(report):
                self._write(taken_over)
            return
        data = getattr(report, REPORT_ATTRIBUTE, None)
        if data is not None:
            setattr(report, REPORT_ATTRIBUTE, NO_RESULT)  # pytest keeps all reports until the end
            result = self._at_least_as_bad(report, Result.from_json(data) if data else None)
        elif (test := parse_id(nodeid)) is not None and self._is_zoo_test(test):
            result = self._result_of_foreign_report(report)
        else:
            return
        has_outcome = report.outcome in ("passed", "failed", "skipped")
        self._repeated |= set() if has_outcome else {nodeid}
        if result is not None:
            self.folded_errors.add(report, result)
        if report.when == "setup" or not has_outcome:
            self._results.pop(nodeid, None)  # the test starts, or pytest is about to rerun it
        self._seconds[nodeid] = self._seconds.get(nodeid, 0.0) + report.duration
        if has_outcome and result is not None:
            # a failing teardown turns a pass into an error, a skipping one does not
            self._results[nodeid] = min(result, self._results.get(nodeid, result), key=_rank)
        if report.when not in ("setup", "call"):
            self._finish(nodeid)

    def _at_least_as_bad(self, report: pytest.TestReport, result: Result | None) -> Result | None:
        """Return the result, or that of the report if it is a failure: a later hook may have changed the report."""
        if not report.failed or (result is not None and result.needs_attention):
            return result
        return self._result_of_report(report) or result

    def _result_of_foreign_report(self, report: pytest.TestReport) -> Result | None:
        """Return the result of a report without our data; None if the outcome is still open.

        A report lacks our data if another plugin replaced it, or if the worker of the test died: xdist then reports the
        test itself.
        """
        if report.when in _PHASES:
            return self._result_of_report(report)
        result = self._result_of_report(report, "crashed")
        return adjust_report(self.settings.expectations, report, result) if result is not None else None

    def _result_of_report(self, report: pytest.TestReport, outcome: Outcome | None = None) -> Result | None:
        """Return the result that follows from the report alone; None if the outcome is still open."""
        test = parse_id(report.nodeid)
        outcome = outcome or report_outcome(report)
        if test is None or outcome is None:
            return None
        zoo = next(zoo for zoo, _ in self.settings.this_shard if zoo.name == test.zoo)
        return build_result(
            test,
            outcome,
            report.longreprtext,
            "",
            repro=reproduce_command(test, self.settings.options.flags(), self.settings.repeat_report),
            family=zoo[test.model].family,
        )

    def _finish(self, nodeid: str) -> None:
        with interrupts_blocked():  # each result is written exactly once
            result, seconds = self._results.pop(nodeid, None), self._seconds.pop(nodeid, 0.0)
            if result is None:
                return
            key = self.keys.key_of_result(result.check_id, flaky=nodeid in self._repeated)
            self._write(replace(result, seconds=round(seconds, 4), key=key))

    def _is_zoo_test(self, test: CheckId) -> bool:
        return test.model in self._names.get(test.zoo, ())

    def _write(self, result: Result) -> None:
        result = self._once_per_model.without_known(result)
        self._begin()  # in case no hook reported the collected tests
        if self.journal is not None:
            try:
                self.journal.write(result)
            except JournalError as error:
                self._cannot_write(error)
            self._print_notices()
        self._announce(result)

    def _cannot_write(self, error: JournalError) -> None:
        """Warn once that the journal is not writable, and continue: results are still shown."""
        self.unwritten_count += 1
        if self.unwritten_count == 1:
            self.write_error = (
                f"{error}. The run continues and shows its results, but not all of them are in the journal"
            )
            self._warn(self.write_error)

    def _broken(self, error: JournalError) -> None:
        """Report that the journal does not hold what the run wrote; this fails the run."""
        self.broken = True
        if str(error) not in self.write_error:
            self.problems.append(str(error))
            self._warn(str(error))

    def _print_notices(self) -> None:
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

    def _announce(self, result: Result) -> None:
        self.config.hook.pytest_headswap_result(config=self.config, result=result)
        self.counts.setdefault(result.zoo, Counter())[result.outcome] += 1
        self.failures += result.needs_attention
        if result.outcome == "skipped":
            self.skips[result.reason] += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the results of tests that were interrupted, and close the journal.

        The run fails if it has a bad result, including those kept from an earlier run, or lacks a result.
        """
        for nodeid in list(self._results):
            self._finish(nodeid)
        if self.journal is not None:
            self._close(self.journal)
        resumed = self.resume is not None and bool(self.resume.carried_over)
        if resumed and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # the earlier run did everything
        lost = (
            self.unwritten_count or self.missing or self.broken or (self.journal is not None and self.journal.displaced)
        )
        if (self.failures or lost) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _close(self, journal: JournalWriter) -> None:
        """Close the journal, and build the reports from the file, not from the results in memory."""
        try:
            journal.close()
            header, results = read_journal(journal.path)
        except JournalError as error:
            self._broken(error)
            self.report_error = str(error)
            return
        finally:
            self._print_notices()
        if journal.displaced:
            self.missing = missing_sentences(header, results)
            self.report_error = f"`headswap report {journal.path} --output FOLDER` writes it to a folder of its own"
            return
        from pytest_headswap.report.write import reports_of

        try:  # a run is valid without reports, so any problem is only reported
            self.reports = reports_of(header, results, self.settings.report)
            self.missing = self.reports.matrix.missing
        except Exception as error:  # noqa: BLE001 - a full disk, a folder that someone has open, or our own bug
            self.report_error = error_message(error)
            self.missing = missing_sentences(header, results)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the counts, the worst results, the paths of the reports, and what is missing."""
        if self.journal is None or not (self.counts or self.missing or self.problems):
            return
        terminalreporter.section("headswap", sep="=")
        for line in count_lines(self.counts, self.skips):
            terminalreporter.write_line(line)
        for line in chain.from_iterable(plugin.summary() for plugin in (self.resume, self.since) if plugin):
            terminalreporter.write_line(line)
        if self.reports is not None:
            for line in worst_lines(self.reports.matrix, terminalreporter._tw.fullwidth):
                terminalreporter.write_line(line)
            terminalreporter.write_line(f"report: {self.reports.html}")
        if self.report_error:
            terminalreporter.write_line(f"warning: the report was not written: {self.report_error}", yellow=True)
        terminalreporter.write_line(f"journal: {self.journal.path}")
        for line in problem_lines(self.problems, self.unwritten_count, self.write_error, self.missing):
            terminalreporter.write_line(line, red=True, bold=True)


def _rank(result: Result) -> tuple[bool, int]:
    """Return a sort key, lower for worse outcomes."""
    return not result.needs_attention, severity(result)
