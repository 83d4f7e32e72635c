"""Turn pytest's reports into results.

The process that runs a test makes its result; xdist's controller writes it. In between, the result is plain data in an
attribute of the report, which xdist transfers unchanged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.harness.build_result import build_result, junit_properties
from pytest_headswap.harness.failure_text import error_message, reason_code
from pytest_headswap.isolation.process_error import ChildProcessDied
from pytest_headswap.plugin.apply_expectations import adjust_report
from pytest_headswap.plugin.collection.report_outcome import is_strict_xpass, report_outcome

if TYPE_CHECKING:
    from pytest_headswap.case.finding import Finding
    from pytest_headswap.plugin.collection.nodes import CheckItem
    from pytest_headswap.results import Outcome

REPORT_ATTRIBUTE = "headswap"
REPLAY_ATTRIBUTE = "headswap_taken_over"
"""The attribute of the reports of a test whose result is taken over."""

NO_RESULT: dict[str, Any] = {}
"""The data of a phase without a verdict, and of a report that has been read."""


def attach_result(item: CheckItem, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Attach a test's result to the report of one of its phases, and replace the report's text with ours."""
    error = call.excinfo.value if call.excinfo is not None else None
    if (
        report.when == "setup"
        and report.failed
        and call.excinfo is not None
        and item.use_short_failures(call.excinfo.value)
    ):
        report.longrepr = item.repr_failure(call.excinfo)  # pytest calls repr_failure only for the call phase
    if report.skipped and isinstance(report.longrepr, tuple):
        # pytest would show the line of this plugin that raised the skip
        skip: Any = (item.parent.parent.name, None, report.longrepr[2])
        report.longrepr = skip

    data = NO_RESULT
    outcome = report_outcome(report, error, item.finding)
    if outcome is not None:
        built = item.parent.built
        result = build_result(
            item.check_id,
            outcome,
            "; ".join(filter(None, [_message(item, report, error), *_notes(item)])),
            _reason(item, report, outcome, error),
            repro=item.repro,
            family=item.parent.family,
            finding=_deciding_finding(item, report),
            anatomy=built.anatomy if built is not None else None,
            peak_memory_mb=_peak_memory_mb(item, error),
            error=error,
        )
        if is_strict_xpass(report):
            result = replace(result, expectation=str(report.longrepr))
        result = adjust_report(item.parent.parent.settings.expectations, report, result)
        data = result.to_json()
        properties = junit_properties(result)
        kept = [(name, value) for name, value in item.user_properties if name not in properties]
        # the reports of later phases start with these
        item.user_properties = [*kept, *properties.items()]
    report.user_properties = item.user_properties
    setattr(report, REPORT_ATTRIBUTE, data)


def _deciding_finding(item: CheckItem, report: pytest.TestReport) -> Finding | None:
    """Return the finding, unless the phase failed for a reason other than the check."""
    finding = item.finding
    fine = finding is not None and finding.outcome in ("passed", "skipped")
    return None if fine and report.failed and not is_strict_xpass(report) else finding


def _message(item: CheckItem, report: pytest.TestReport, error: BaseException | None) -> str:
    if isinstance(error, pytest.skip.Exception):
        return str(error.msg)
    if error is not None:
        return error_message(error)
    if report.failed and not is_strict_xpass(report):
        return report.longreprtext or "failed, without a message"
    return item.finding.message if item.finding is not None else ""


def _notes(item: CheckItem) -> tuple[str, ...]:
    """Return notes on the global state that the model changed."""
    built, checked = item.parent.built, item.reply
    return (built.notes if built is not None else ()) + (checked.notes if checked is not None else ())


def _peak_memory_mb(item: CheckItem, error: BaseException | None) -> float | None:
    if isinstance(error, ChildProcessDied):
        return error.peak_memory_mb
    return item.reply.peak_memory_mb if item.reply is not None else None


def _reason(item: CheckItem, report: pytest.TestReport, outcome: Outcome, error: BaseException | None) -> str:
    if (finding := _deciding_finding(item, report)) is not None:
        return finding.reason
    if outcome == "skipped":
        return reason_code(error) or (item.parent.built.reason if item.parent.built is not None else "")
    return reason_code(error)
