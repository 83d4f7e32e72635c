"""Show one block in the terminal for a model that cannot be built, instead of the same block for each of its checks."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_headswap._text import pluralize
from pytest_headswap.results import Result

_Key = tuple[str, str, str]


class FoldedErrors:
    """The errors of builds that were shown. The tests stay in pytest's counts and in its short summary."""

    def __init__(self) -> None:
        self._shown: dict[_Key, tuple[pytest.TestReport, str]] = {}
        self._folded: dict[_Key, list[pytest.TestReport]] = {}
        self._all_errors: list[pytest.TestReport] = []

    def add(self, report: pytest.TestReport, result: Result) -> None:
        """Fold a report into that of another check of the model that says the same."""
        if report.when != "setup" or not report.failed or not isinstance(report.longrepr, str):
            return
        key = result.zoo, result.model, result.full_message
        if key not in self._shown:
            self._shown[key] = report, report.longrepr
            return
        folded = self._folded.setdefault(key, [])
        folded.append(report)
        first, text = self._shown[key]
        first.longrepr = f"{text}\nand {pluralize(len(folded), 'more check')} for the same reason"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
        """Hide the folded reports while pytest prints the blocks, which it does before it calls other plugins."""
        stats, errors = terminalreporter.stats, terminalreporter.stats.get("error", [])
        folded = {id(report) for reports in self._folded.values() for report in reports}
        self._all_errors = errors
        if folded:
            stats["error"] = [report for report in errors if id(report) not in folded]
        try:
            yield
        finally:
            if folded:
                stats["error"] = errors

    @pytest.hookimpl(tryfirst=True, specname="pytest_terminal_summary")
    def pytest_terminal_summary_show_all(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the folded reports again, for the short summary and the counts."""
        if self._folded:
            terminalreporter.stats["error"] = self._all_errors
