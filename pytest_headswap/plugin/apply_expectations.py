"""Apply the expectations to pytest's reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.expectations.judge import NOT_RUN, seen_of
from pytest_headswap.expectations.outcomes import judged
from pytest_headswap.results import Result

if TYPE_CHECKING:
    from pytest_headswap.expectations.expectations import Expectations
    from pytest_headswap.expectations.judge import Seen
    from pytest_headswap.expectations.outcomes import Judged
    from pytest_headswap.results.ids import CheckId


SECTION = "headswap expectations"


def judge_report(
    expectations: Expectations, report: pytest.TestReport, facts: dict[str, Any], command: str
) -> dict[str, Any]:
    """Return the result fields after expectations are applied, and update the report. User marks take precedence."""
    seen = seen_of(Result.from_json(facts))
    if seen is None:
        return facts
    found = judged(expectations, seen, command, str(report.when))
    if found.outcome == "xfailed":
        report.outcome = "skipped"
        report.wasxfail = found.expected
    elif found.is_failure:
        _tell_failure(report, seen, found)
    return {**facts, "outcome": found.outcome, "found": found.found, "expected": found.expected}


def _tell_failure(report: pytest.TestReport, seen: Seen, found: Judged) -> None:
    if report.failed:  # the failure is described already
        if isinstance(report.longrepr, str):
            report.longrepr = f"{report.longrepr}\n{found.expected}"
        else:
            report.sections.append((SECTION, found.expected))
        return
    report.outcome = "failed"
    first, _, rest = found.expected.partition("\n")
    report.longrepr = "\n".join(filter(None, [first, seen.message, rest]))


def skip_if_not_run(expectations: Expectations, test: CheckId) -> None:
    """Skip a check that an entry excludes from running, unless this is an audit."""
    entry = expectations.not_run(test)
    if entry is None or expectations.audit:
        return
    error: Any = pytest.skip.Exception(f"[{NOT_RUN}] {' '.join(entry.reason.split())}")
    error.reason = NOT_RUN
    raise error
