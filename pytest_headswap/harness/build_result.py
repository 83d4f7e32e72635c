"""Build the result of one check of one model. Runs with and without pytest share this code."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from pytest_headswap.harness.failure_text import error_message, failure_traceback
from pytest_headswap.head import Head
from pytest_headswap.results import Result
from pytest_headswap.results.head_record import SwappedHead, SwappedHeads
from pytest_headswap.results.ids import CheckId
from pytest_headswap.results.result import FAILURES

if TYPE_CHECKING:
    from pytest_headswap.case.case import Case
    from pytest_headswap.case.finding import Finding
    from pytest_headswap.results import Outcome


_JUNIT_PROPERTIES = (
    *("zoo", "model", "check", "outcome", "evidence", "reason", "message"),
    *("family", "heads", "peak_memory_mb", "repro", "taken_over"),
)


def build_result(
    test: CheckId,
    outcome: Outcome,
    message: str,
    reason: str,
    *,
    repro: str,
    family: str,
    finding: Finding | None = None,
    anatomy: SwappedHeads | None = None,
    peak_memory_mb: float | None = None,
    error: BaseException | None = None,
) -> Result:
    """Return a result, without its time. `error` is the exception that ended the check."""
    return Result(
        *(*test, outcome),
        evidence=finding.evidence if finding is not None else "",
        message=message,
        repro=repro,
        nodeid=str(test),
        reason=reason,
        family=family,
        peak_memory_mb=peak_memory_mb,
        heads=tuple(head.path for head in anatomy.heads) if anatomy is not None else (),
        anatomy=anatomy,
        traceback=failure_traceback(error) if error is not None and outcome in FAILURES else "",
    )


def junit_properties(result: Result) -> dict[str, str]:
    """Return the values that go into JUnit XML as properties of the test, without empty ones."""
    named = {name: getattr(result, name) for name in _JUNIT_PROPERTIES}
    return {
        name: ", ".join(value) if isinstance(value, tuple) else str(value)
        for name, value in named.items()
        if value not in ("", None, ())
    }


def finding_message(finding: Finding) -> str:
    """Return the message of a finding for its result."""
    if finding.exception is not None:
        return error_message(finding.exception)
    coded = finding.outcome == "skipped" and finding.reason
    return f"[{finding.reason}] {finding.message}" if coded else finding.message


def swapped_heads(case: Case) -> SwappedHeads:
    """Return the swapped heads of a case, with the path through each."""
    heads = []
    for head, old in zip(case.swap.heads, case.swap.old_heads, strict=True):
        shared = {item.name: getattr(head, item.name) for item in fields(Head)}
        heads.append(SwappedHead(**shared, old_num_classes=old.num_classes))
    return SwappedHeads(tuple(heads), case.swap.notes)
