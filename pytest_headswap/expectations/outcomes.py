"""Turn verdicts into outcomes, for pytest's reports and for results in the journal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from pytest_headswap.expectations.expectations import Expectations
from pytest_headswap.expectations.judge import BAD, NOT_RUN, Seen, seen_of
from pytest_headswap.expectations.messages import told
from pytest_headswap.results import Result
from pytest_headswap.results.ids import CheckId

if TYPE_CHECKING:
    from pytest_headswap.results import Outcome


@dataclass(frozen=True)
class Judged:
    """The outcome of an observation after expectations are applied.

    Attributes:
        outcome: the outcome of the result.
        found: the outcome without expectations; empty if it is the same.
        expected: what the file says about it.
    """

    outcome: Outcome
    found: str = ""
    expected: str = ""

    @property
    def is_failure(self) -> bool:
        """Return whether the run fails because of the expectations file."""
        return bool(self.expected) and self.outcome not in ("xfailed", "skipped")


def judged(expectations: Expectations, seen: Seen, command: str, when: str) -> Judged:
    """Apply the expectations to an observation.

    Args:
        expectations: those of this run.
        seen: the observation.
        command: the command that repeats the test.
        when: the phase of the test.
    """
    outcome = cast("Outcome", seen.outcome)
    if why := expectations.audited(seen.test):
        return Judged("xfailed", outcome, why) if outcome in BAD else Judged(outcome, expected="")
    verdict = expectations.verdict(seen)
    if verdict.kind == "plain" or expectations.store is None:
        return Judged(outcome)
    text = told(verdict, seen, command, expectations.store.typed)
    if verdict.kind == "expected":
        return Judged(outcome, expected=text) if outcome == "skipped" else Judged("xfailed", outcome, text)
    if verdict.kind == "passes":
        return Judged("xpassed", outcome, text)
    if outcome in BAD:
        return Judged(outcome, expected=text)
    return Judged("failed" if when == "call" else "error", outcome, text)


def judge_again(expectations: Expectations, result: Result) -> Result | None:
    """Return a result of an earlier run with today's expectations applied; None if the check must be decided again.

    A check that was skipped then may have to run now, and the other way round.
    """
    test = CheckId(result.zoo, result.model, result.check)
    skipped = (result.found or result.outcome) == "skipped"
    kept = result.reason if skipped and result.reason in (NOT_RUN, expectations.refused) else ""
    if expectations.audited(test) or kept != expectations.keeps(test):
        return None
    seen = seen_of(result)
    if seen is None:
        return result
    found = judged(expectations, seen, result.repro, "call")
    return replace(result, outcome=found.outcome, found=found.found, expected=found.expected)
