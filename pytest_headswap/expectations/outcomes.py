"""Apply expectations to results."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_headswap.expectations.expectations import Expectations
from pytest_headswap.expectations.matcher import before_expectations, decided_by_mark
from pytest_headswap.expectations.messages import describe
from pytest_headswap.results import Result
from pytest_headswap.results.result import FAILURES, NOT_RUN

if TYPE_CHECKING:
    from pytest_headswap.results import Outcome


def apply(expectations: Expectations, result: Result, when: str = "call") -> Result:
    """Return a result with the expectations applied; an outcome that a user's mark decided stays as it is.

    Args:
        expectations: the expectations of this run.
        result: a new result, or one to which the expectations of an earlier run were applied.
        when: the phase of the test.
    """
    if decided_by_mark(result):
        return result
    result = before_expectations(result)
    outcome: Outcome = result.outcome
    verdict = expectations.matcher.verdict(result)
    if expectations.run_skipped and (why := expectations.normal_skip(result.check_id)[1]):
        outcome, text = ("xfailed", why) if outcome in FAILURES else (outcome, "")
    elif verdict.kind == "none" or expectations.files is None:
        return result
    else:
        text = describe(verdict, result, expectations.files.given_path)
        if verdict.kind == "expected":
            outcome = "skipped" if outcome == "skipped" else "xfailed"
        elif verdict.kind == "unexpected_pass":
            outcome = "xpassed"
        elif outcome not in FAILURES:  # a skip that is not listed, or is listed as another outcome
            outcome = "failed" if when == "call" else "error"
    raw_outcome = result.outcome if outcome != result.outcome else ""
    return replace(result, outcome=outcome, raw_outcome=raw_outcome, expectation=text)


def reapply(expectations: Expectations, result: Result) -> Result | None:
    """Return a result of an earlier run with the expectations of this run; None if the check must run again.

    A check that was skipped then may have to run now, and the other way round.
    """
    raw = before_expectations(result)
    skipped = raw.outcome == "skipped" and raw.reason in (NOT_RUN, expectations.refused_code)
    if (raw.reason if skipped else "") != expectations.skip_code(result.check_id):
        return None
    return apply(expectations, result)
