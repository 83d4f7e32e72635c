"""Turn verdicts into outcomes, for pytest's reports and for results in the journal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from pytest_headswap.expectations.expectations import Expectations
from pytest_headswap.expectations.matcher import FAILURES, NOT_RUN, Observation, observation_from
from pytest_headswap.expectations.messages import describe
from pytest_headswap.results import Result
from pytest_headswap.results.ids import CheckId

if TYPE_CHECKING:
    from pytest_headswap.results import Outcome


@dataclass(frozen=True)
class AdjustedOutcome:
    """The outcome of an observation after expectations are applied.

    Attributes:
        outcome: the outcome of the result.
        raw_outcome: the outcome without expectations; empty if it is the same.
        expectation: what the file says about it.
    """

    outcome: Outcome
    raw_outcome: str = ""
    expectation: str = ""

    @property
    def is_failure(self) -> bool:
        """Return whether the run fails because of the expectations file."""
        return bool(self.expectation) and self.outcome not in ("xfailed", "skipped")


def apply(expectations: Expectations, observation: Observation, command: str, when: str) -> AdjustedOutcome:
    """Apply the expectations to an observation.

    Args:
        expectations: those of this run.
        observation: the observation.
        command: the command that repeats the test.
        when: the phase of the test.
    """
    outcome = cast("Outcome", observation.outcome)
    if why := expectations.skip_reason_ignored(observation.test):
        return (
            AdjustedOutcome("xfailed", outcome, why)
            if outcome in FAILURES
            else AdjustedOutcome(outcome, expectation="")
        )
    verdict = expectations.verdict(observation)
    if verdict.kind == "none" or expectations.files is None:
        return AdjustedOutcome(outcome)
    text = describe(verdict, observation, command, expectations.files.given_path)
    if verdict.kind == "expected":
        return (
            AdjustedOutcome(outcome, expectation=text)
            if outcome == "skipped"
            else AdjustedOutcome("xfailed", outcome, text)
        )
    if verdict.kind == "unexpected_pass":
        return AdjustedOutcome("xpassed", outcome, text)
    if outcome in FAILURES:
        return AdjustedOutcome(outcome, expectation=text)
    return AdjustedOutcome("failed" if when == "call" else "error", outcome, text)


def reapply(expectations: Expectations, result: Result) -> Result | None:
    """Return a result of an earlier run with today's expectations applied; None if the check must be decided again.

    A check that was skipped then may have to run now, and the other way round.
    """
    test = CheckId(result.zoo, result.model, result.check)
    skipped = (result.raw_outcome or result.outcome) == "skipped"
    skip_code = result.reason if skipped and result.reason in (NOT_RUN, expectations.refused_code) else ""
    if expectations.skip_reason_ignored(test) or skip_code != expectations.skip_code(test):
        return None
    observation = observation_from(result)
    if observation is None:
        return result
    adjusted = apply(expectations, observation, result.repro, "call")
    return replace(result, outcome=adjusted.outcome, raw_outcome=adjusted.raw_outcome, expectation=adjusted.expectation)
