"""What was found, held against what is expected. The order of the entries means nothing.

All entries that cover a check of a model expect the same outcome. What was found is as expected when one of them
explains it; a pass is not, unless each of them allows it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from pytest_headswap._globs import matching
from pytest_headswap.expectations.entry import Entry
from pytest_headswap.results import Result
from pytest_headswap.results.ids import CheckId

NOT_RUN = "not_run"
"""The reason code of what an entry keeps from being run."""

NOT_RUN_MEANS = "the file of expectations says that it is not even to be run"

BAD = ("failed", "error", "crashed", "timeout")


class ConflictError(ValueError):
    """Two entries contradict each other; the message names them."""


@dataclass(frozen=True)
class Seen:
    """What was found by a check of a model, whatever became of it."""

    test: CheckId
    outcome: str
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the file makes of something that was found.

    Attributes:
        kind: `plain`: nothing is expected, and nothing wrong with that; `expected`; `passes`, and should not;
            `differs` from what is expected; `unlisted`, a skip that has to be stated, and is not.
        entries: those that explain it, or that it breaks.
    """

    kind: Literal["plain", "expected", "passes", "differs", "unlisted"]
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Covered:
    """An entry with the models and checks that it stands for, in the whole zoo."""

    entry: Entry
    models: frozenset[str]
    checks: frozenset[str]

    def tests(self) -> Iterable[CheckId]:
        """Each check of each model."""
        return (CheckId(self.entry.zoo, model, check) for model in self.models for check in self.checks)


@dataclass(frozen=True)
class Judge:
    """The entries that hold here, and the zoos whose skips all have to be stated."""

    covered: tuple[Covered, ...]
    strict_skips: frozenset[str] = frozenset()

    def entries(self, test: CheckId) -> list[Entry]:
        """The entries that cover a test."""
        return [
            item.entry
            for item in self.covered
            if item.entry.zoo == test.zoo and test.model in item.models and test.check in item.checks
        ]

    def verdict(self, seen: Seen) -> Verdict:
        """What is to be made of something that was found."""
        entries = self.entries(seen.test)
        if explaining := [entry for entry in entries if entry.explains(seen.outcome, seen.code, seen.message)]:
            return Verdict("expected", tuple(explaining))
        if seen.outcome == "passed":
            strict = tuple(entry for entry in entries if not entry.may_pass)
            return Verdict("passes", strict) if strict else Verdict("plain")
        if entries:
            return Verdict("differs", tuple(entries))
        if seen.outcome == "skipped" and seen.test.zoo in self.strict_skips:
            return Verdict("unlisted")
        return Verdict("plain")

    def unneeded(self, seen: Sequence[Seen], whole: Collection[str]) -> list[Entry]:
        """The entries that no result needs or breaks, of those whose models and checks have all been judged.

        Args:
            seen: what was found.
            whole: zoos of which all was run that this machine should run; an entry that fits no model is told there.
        """
        needed: set[Entry] = set()
        for item in seen:
            needed.update(self.verdict(item).entries)
        ran = {item.test for item in seen}
        return [
            item.entry
            for item in self.covered
            if item.entry not in needed
            and (ran.issuperset(item.tests()) if item.models and item.checks else item.entry.zoo in whole)
        ]


def make_judge(
    entries: Iterable[Entry],
    models: Mapping[str, Collection[str]],
    checks: Collection[str],
    strict_skips: Iterable[str],
) -> Judge:
    """The judge of entries that hold here.

    Args:
        entries: those of other zoos are left out.
        models: the names of all models, by zoo.
        checks: the names of all checks.
        strict_skips: the zoos whose skips all have to be stated.

    Raises:
        ConflictError: two entries expect different outcomes of the same check of a model.
    """
    covered = tuple(
        Covered(entry, matching(entry.models, models[entry.zoo]), matching(entry.checks, checks))
        for entry in entries
        if entry.zoo in models
    )
    for one, other in combinations(covered, 2):
        if one.entry.zoo != other.entry.zoo or _told(one.entry) == _told(other.entry):
            continue
        both = one.models & other.models, one.checks & other.checks
        if all(both):
            test = CheckId(one.entry.zoo, min(both[0]), min(both[1]))
            raise ConflictError(
                f"{test} is covered twice, and differently: by {one.entry.where} ({_told(one.entry)}), "
                f"and by {other.entry.where} ({_told(other.entry)}). Leave it out of one with '!{test.model}'"
            )
    return Judge(covered, frozenset(strict_skips))


def _told(entry: Entry) -> str:
    return entry.outcome if entry.run else "not run"


def seen_of(result: Result) -> Seen | None:
    """What a result says was found; None where a mark of the user decided, and not the model."""
    marked = (result.outcome in ("xfailed", "xpassed") and not result.found) or (
        result.outcome == "skipped" and not result.reason
    )
    if marked:
        return None
    test = CheckId(result.zoo, result.model, result.check)
    return Seen(test, result.found or result.outcome, result.reason, result.message)
