"""Derive the outcome of a check from its finding; it is never better than pytest's own outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_headswap.harness.pytest_outcomes import is_failure
from pytest_headswap.isolation.process_error import ChildProcessDied

if TYPE_CHECKING:
    from pytest_headswap.case.finding import Finding
    from pytest_headswap.results import Outcome

_STRICT_XPASS = "[XPASS(strict)]"


def report_outcome(
    report: pytest.TestReport, error: BaseException | None = None, finding: Finding | None = None
) -> Outcome | None:
    """Return the outcome after a phase of a test; None while it is still open.

    Args:
        report: pytest's report of the phase.
        error: the exception that ended the phase.
        finding: the finding of the check, if it ran.
    """
    if report.failed:
        return _failure(report, error, finding)
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    if report.skipped:
        return "skipped"
    return "passed" if report.passed and report.when == "call" else None


def _failure(report: pytest.TestReport, error: BaseException | None, finding: Finding | None) -> Outcome:
    if isinstance(error, ChildProcessDied):
        return error.outcome
    if report.when != "call":
        return "error"
    if error is None:
        return "xpassed" if is_strict_xpass(report) else "failed"
    if is_failure(error) or (finding is not None and finding.outcome == "failed"):
        return "failed"
    return "error"


def is_strict_xpass(report: pytest.TestReport) -> bool:
    """Return whether a strict xfail mark failed a test for passing: pytest states this only in the report's text."""
    return report.failed and isinstance(report.longrepr, str) and report.longrepr.startswith(_STRICT_XPASS)
