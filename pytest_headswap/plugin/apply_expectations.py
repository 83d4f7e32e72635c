"""Apply the expectations to pytest's reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.expectations.matcher import NOT_RUN, observation_from
from pytest_headswap.expectations.outcomes import apply
from pytest_headswap.results import Result

if TYPE_CHECKING:
    from pytest_headswap.expectations.expectations import Expectations
    from pytest_headswap.expectations.matcher import Observation
    from pytest_headswap.expectations.outcomes import AdjustedOutcome
    from pytest_headswap.results.ids import CheckId


SECTION = "headswap expectations"


def adjust_report(
    expectations: Expectations, report: pytest.TestReport, fields: dict[str, Any], command: str
) -> dict[str, Any]:
    """Return the result fields after expectations are applied, and update the report. User marks take precedence."""
    observation = observation_from(Result.from_json(fields))
    if observation is None:
        return fields
    adjusted = apply(expectations, observation, command, str(report.when))
    if adjusted.outcome == "xfailed":
        report.outcome = "skipped"
        report.wasxfail = adjusted.expectation
    elif adjusted.is_failure:
        _write_failure(report, observation, adjusted)
    return {
        **fields,
        "outcome": adjusted.outcome,
        "raw_outcome": adjusted.raw_outcome,
        "expectation": adjusted.expectation,
    }


def _write_failure(report: pytest.TestReport, observation: Observation, adjusted: AdjustedOutcome) -> None:
    if report.failed:  # the failure is described already
        if isinstance(report.longrepr, str):
            report.longrepr = f"{report.longrepr}\n{adjusted.expectation}"
        else:
            report.sections.append((SECTION, adjusted.expectation))
        return
    report.outcome = "failed"
    first, _, rest = adjusted.expectation.partition("\n")
    report.longrepr = "\n".join(filter(None, [first, observation.message, rest]))


def skip_if_not_run(expectations: Expectations, test: CheckId) -> None:
    """Skip a check that an entry excludes from running, unless --headswap-run-skipped is given."""
    entry = expectations.not_run_entry(test)
    if entry is None or expectations.run_skipped:
        return
    error: Any = pytest.skip.Exception(f"[{NOT_RUN}] {' '.join(entry.reason.split())}")
    error.reason = NOT_RUN
    raise error
