"""Apply the expectations to pytest's reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.expectations.outcomes import apply
from pytest_headswap.results.result import NOT_RUN

if TYPE_CHECKING:
    from pytest_headswap.expectations.expectations import Expectations
    from pytest_headswap.results import Result
    from pytest_headswap.results.ids import CheckId


SECTION = "headswap expectations"


def adjust_report(expectations: Expectations, report: pytest.TestReport, result: Result) -> Result:
    """Return a result after expectations are applied, and update the report. User marks take precedence."""
    adjusted = apply(expectations, result, str(report.when))
    if adjusted == result or adjusted.outcome == "skipped":
        return adjusted
    if adjusted.outcome == "xfailed":
        report.outcome = "skipped"
        report.wasxfail = adjusted.expectation
    elif not report.failed:
        report.outcome = "failed"
        first, _, rest = adjusted.expectation.partition("\n")
        report.longrepr = "\n".join(filter(None, [first, adjusted.message, rest]))
    elif isinstance(report.longrepr, str):
        report.longrepr = f"{report.longrepr}\n{adjusted.expectation}"
    else:
        report.sections.append((SECTION, adjusted.expectation))
    return adjusted


def skip_if_not_run(expectations: Expectations, test: CheckId) -> None:
    """Skip a check that an entry excludes from running, unless --headswap-run-skipped is given."""
    entry = expectations.not_run_entry(test)
    if entry is None or expectations.run_skipped:
        return
    error: Any = pytest.skip.Exception(f"[{NOT_RUN}] {entry.explanation}")
    error.reason = NOT_RUN
    raise error
