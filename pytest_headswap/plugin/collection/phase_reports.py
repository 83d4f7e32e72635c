"""Turn pytest's reports into results.

The process that runs a test knows the finding; xdist's controller writes the result. The facts travel as a dict in an
attribute of the report, which xdist transfers unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.harness.build_result import facts_of, properties_of
from pytest_headswap.harness.failure_text import message_of, reason_of
from pytest_headswap.isolation.process_error import LostError
from pytest_headswap.plugin.apply_expectations import judge_report
from pytest_headswap.plugin.collection.verdict import outcome_of, passes_strictly

if TYPE_CHECKING:
    from pytest_headswap.case.finding import Finding
    from pytest_headswap.plugin.collection.nodes import CheckItem
    from pytest_headswap.results import Outcome

ATTRIBUTE = "headswap"
NO_FACTS: dict[str, Any] = {}
"""Facts of the report of a phase without a verdict, and of a report that has been read."""


def annotate(item: CheckItem, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Attach the facts of a test to the report of one of its phases, and replace the report's text with ours."""
    error = call.excinfo.value if call.excinfo is not None else None
    if report.when == "setup" and report.failed and call.excinfo is not None and item.tells(call.excinfo.value):
        report.longrepr = item.repr_failure(call.excinfo)  # pytest calls repr_failure only for the call phase
    if report.skipped and isinstance(report.longrepr, tuple):
        # where the skip was raised is a line of this plugin, which tells a user nothing
        skip: Any = (item.parent.parent.name, None, report.longrepr[2])
        report.longrepr = skip

    facts = NO_FACTS
    outcome = outcome_of(report, error, item.finding)
    if outcome is not None:
        built = item.parent.built
        facts = facts_of(
            item.check_id,
            outcome,
            message="; ".join(filter(None, [_message(item, report, error), *_notes(item)])),
            reason=_reason(item, report, outcome, error),
            finding=_accounting(item, report),
            repro=item.repro,
            family=item.parent.family,
            anatomy=built.anatomy if built is not None else None,
            taken_mb=_taken_mb(item, error),
        )
        if passes_strictly(report):
            facts["expected"] = str(report.longrepr)
        facts = judge_report(item.parent.parent.settings.expectations, report, facts, item.repro)
        properties = properties_of(facts)
        kept = [(name, value) for name, value in item.user_properties if name not in properties]
        # later phases make their reports of these
        item.user_properties = [*kept, *properties.items()]
    report.user_properties = item.user_properties
    setattr(report, ATTRIBUTE, facts)


def _accounting(item: CheckItem, report: pytest.TestReport) -> Finding | None:
    """Return the finding, unless the phase failed for a reason other than the check."""
    finding = item.finding
    fine = finding is not None and finding.outcome in ("passed", "skipped")
    return None if fine and report.failed and not passes_strictly(report) else finding


def _message(item: CheckItem, report: pytest.TestReport, error: BaseException | None) -> str:
    if isinstance(error, pytest.skip.Exception):
        return str(error.msg)
    if error is not None:
        return message_of(error)
    if report.failed and not passes_strictly(report):
        return report.longreprtext or "failed, without a message"
    return item.finding.message if item.finding is not None else ""


def _notes(item: CheckItem) -> tuple[str, ...]:
    """Return notes on the global state that the model changed."""
    built, checked = item.parent.built, item.checked
    return (built.notes if built is not None else ()) + (checked.notes if checked is not None else ())


def _taken_mb(item: CheckItem, error: BaseException | None) -> float | None:
    if isinstance(error, LostError):
        return error.taken_mb
    return item.checked.taken_mb if item.checked is not None else None


def _reason(item: CheckItem, report: pytest.TestReport, outcome: Outcome, error: BaseException | None) -> str:
    if (finding := _accounting(item, report)) is not None:
        return finding.reason
    if outcome == "skipped":
        return reason_of(error) or (item.parent.built.reason if item.parent.built is not None else "")
    return reason_of(error)
