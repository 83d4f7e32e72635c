"""Match results against the entries. The order of the entries does not matter.

All entries that cover a check of a model expect the same outcome. A result is as expected if one of them explains it. A
pass is accepted only if all of them allow it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from pytest_headswap._globs import select_names
from pytest_headswap.expectations.entry import Entry
from pytest_headswap.results import Result
from pytest_headswap.results.ids import CheckId
from pytest_headswap.results.result import FAILURES

NOT_RUN_DESCRIPTION = "the expectations file excludes it from running"


class ConflictError(ValueError):
    """Two entries contradict each other; the message names them."""


@dataclass(frozen=True)
class Verdict:
    """The verdict of the entries on one result.

    Attributes:
        kind: `none`: nothing is expected, and nothing needs to be. `expected`: an entry explains the result.
            `unexpected_pass`: it should not have passed. `mismatch`: something else is expected. `unlisted_skip`: a
            skip without an entry, in a zoo whose skips must all be listed. `ended`: a failure that only ended
            entries cover.
        entries: the entries that explain the result, or that it violates.
    """

    kind: Literal["none", "expected", "unexpected_pass", "mismatch", "unlisted_skip", "ended"]
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class ScopedEntry:
    """An entry with the models and checks that it covers in the whole zoo."""

    entry: Entry
    models: frozenset[str]
    checks: frozenset[str]

    def covers(self, test: CheckId) -> bool:
        """Return whether the entry covers a test."""
        return self.entry.zoo == test.zoo and test.model in self.models and test.check in self.checks

    def tests(self) -> Iterable[CheckId]:
        """Return each check of each model."""
        return (CheckId(self.entry.zoo, model, check) for model in self.models for check in self.checks)


@dataclass(frozen=True)
class ExpectationMatcher:
    """The entries that apply here, the zoos whose skips must all be listed, and the entries that have ended."""

    entries: tuple[ScopedEntry, ...]
    strict_skips: frozenset[str] = frozenset()
    ended: tuple[ScopedEntry, ...] = ()

    def entries_of(self, test: CheckId) -> list[Entry]:
        """Return the entries that cover a test."""
        return [item.entry for item in self.entries if item.covers(test)]

    def verdict(self, result: Result) -> Verdict:
        """Match one result, before expectations are applied, against the entries that cover it."""
        entries = self.entries_of(result.check_id)
        if explaining := [entry for entry in entries if entry.matches(result.outcome, result.reason, result.message)]:
            return Verdict("expected", tuple(explaining))
        if result.outcome == "passed":
            strict = tuple(entry for entry in entries if not entry.may_pass)
            return Verdict("unexpected_pass", strict) if strict else Verdict("none")
        if entries:
            return Verdict("mismatch", tuple(entries))
        if result.outcome == "skipped" and result.zoo in self.strict_skips:
            return Verdict("unlisted_skip")
        if result.outcome in FAILURES and (
            ended := [item.entry for item in self.ended if item.covers(result.check_id)]
        ):
            return Verdict("ended", tuple(ended))
        return Verdict("none")

    def unused_entries(self, results: Sequence[Result], complete: Collection[str]) -> list[Entry]:
        """Return the unused entries.

        An entry is unused if all its tests ran and no result matches or contradicts it.

        Args:
            results: the results before expectations are applied.
            complete: zoos that ran completely on this machine. Only there is an entry without matching models reported.
        """
        used: set[Entry] = set()
        for result in results:
            used.update(self.verdict(result).entries)
        ran = {result.check_id for result in results}
        return [
            item.entry
            for item in self.entries
            if item.entry not in used
            and (ran.issuperset(item.tests()) if item.models and item.checks else item.entry.zoo in complete)
        ]


def make_matcher(
    entries: Iterable[Entry],
    models: Mapping[str, Collection[str]],
    checks: Collection[str],
    strict_skips: Iterable[str],
    ended: Iterable[Entry] = (),
) -> ExpectationMatcher:
    """Return the matcher of the entries that apply here.

    Args:
        entries: entries of other zoos are ignored.
        models: the names of all models, by zoo.
        checks: the names of all checks.
        strict_skips: the zoos whose skips must all be listed.
        ended: entries that no longer apply here, although their conditions hold.

    Raises:
        ConflictError: two entries expect different outcomes of the same check of a model.
    """

    def scope(of: Iterable[Entry]) -> tuple[ScopedEntry, ...]:
        return tuple(
            ScopedEntry(entry, select_names(entry.models, models[entry.zoo]), select_names(entry.checks, checks))
            for entry in of
            if entry.zoo in models
        )

    scoped = scope(entries)
    for one, other in combinations(scoped, 2):
        if one.entry.zoo != other.entry.zoo or _expected_outcome(one.entry) == _expected_outcome(other.entry):
            continue
        both = one.models & other.models, one.checks & other.checks
        if all(both):
            test = CheckId(one.entry.zoo, min(both[0]), min(both[1]))
            raise ConflictError(
                f"{test} is covered twice, and differently: by {one.entry.where} ({_expected_outcome(one.entry)}), "
                f"and by {other.entry.where} ({_expected_outcome(other.entry)}). Leave it out of one with "
                f"'!{test.model}'"
            )
    return ExpectationMatcher(scoped, frozenset(strict_skips), scope(ended))


def _expected_outcome(entry: Entry) -> str:
    return entry.outcome if entry.run else "not run"


def decided_by_mark(result: Result) -> bool:
    """Return whether a user's mark, not the model, decided an outcome."""
    if result.outcome == "skipped":
        return not result.reason
    return result.outcome in ("xfailed", "xpassed") and not result.raw_outcome


def before_expectations(result: Result) -> Result:
    """Return a result as it was before expectations were applied."""
    return replace(result, outcome=result.raw_outcome or result.outcome, raw_outcome="", expectation="")
