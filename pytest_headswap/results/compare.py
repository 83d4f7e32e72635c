"""Compare two journals: what broke, was fixed, or became slower or larger.

Machines differ and clocks are noisy. Times are therefore compared for whole models, relative to the median change, and
only if they differ by more than a few seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from pytest_headswap.results.journal import JournalHeader
from pytest_headswap.results.matrix import Row, badness, matrix_of
from pytest_headswap.results.result import Outcome, Result

_ENOUGH = 10
"""The number of models from which the pace of a machine can be estimated."""

_Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Limits:
    """The limits above which a difference counts: it must exceed both the factor and the amount."""

    slower: float = 1.5
    seconds: float = 10.0  # the first model of a process also pays for imports
    larger: float = 1.25
    megabytes: float = 200.0


@dataclass(frozen=True)
class Change:
    """A result that changed; `old` or `new` is None if that run has no such result."""

    old: Result | None
    new: Result | None

    @property
    def result(self) -> Result:
        """Return the new result, or the old one if there is no new one."""
        result = self.new or self.old
        assert result is not None, "one of the two is there"
        return result


@dataclass(frozen=True)
class Growth:
    """A model that took more time or memory than before."""

    zoo: str
    model: str
    old: float
    new: float
    unit: str
    """`s` or `MB`."""

    repro: str

    @property
    def factor(self) -> float:
        """Return the ratio of new to old."""
        return self.new / self.old


@dataclass(frozen=True)
class Comparison:
    """The changes between two runs, each list sorted with the worst first.

    Attributes:
        broke: results that are bad now and were not, including those of new models and checks.
        mended: results that were bad, or failed as expected, and pass now.
        changed: other results whose outcome changed, such as a check that no longer applies.
        gone: results that no longer exist.
        slower, larger: models that exceed the limits.
        pace: the second run's time relative to the first, for the median model; None if the runs share too few
            models.
        shared: the number of results in both runs.
        missing: results that either run should have but lacks, as sentences.
    """

    broke: tuple[Change, ...]
    mended: tuple[Change, ...]
    changed: tuple[Change, ...]
    gone: tuple[Change, ...]
    slower: tuple[Growth, ...]
    larger: tuple[Growth, ...]
    pace: float | None
    shared: int
    missing: tuple[str, ...] = ()


def compare(old: Iterable[Result], new: Iterable[Result], limits: Limits | None = None) -> Comparison:
    """Compare the results of two runs."""
    limits = limits or Limits()
    old, new = list(old), list(new)
    before, after = _by_key(old), _by_key(new)
    changes = [
        Change(before.get(key), result)
        for key, result in after.items()
        if key not in before or _verdict(before[key]) != _verdict(result)
    ]
    kinds: dict[str, list[Change]] = {"broke": [], "mended": [], "changed": []}
    for change in changes:
        kind = _kind(change.old, change.result)
        if kind:
            kinds[kind].append(change)
    gone = [Change(result, None) for key, result in before.items() if key not in after]
    slower, pace = _slower(_rows(old), _rows(new), limits)
    return Comparison(
        broke=_worst_first(kinds["broke"]),
        mended=_worst_first(kinds["mended"]),
        changed=_worst_first(kinds["changed"]),
        gone=_worst_first(gone),
        slower=slower,
        larger=_larger(_rows(old), _rows(new), limits),
        pace=pace,
        shared=len(before.keys() & after.keys()),
    )


def _verdict(result: Result) -> tuple[Outcome, bool]:
    return result.outcome, result.bad


def _kind(old: Result | None, new: Result) -> str:
    """Return the list that a change belongs to; empty if a new result is good."""
    if new.bad:
        return "broke" if old is None or not old.bad else "changed"
    if old is None:
        return ""
    passes = new.outcome in _PASSES
    if passes and old.outcome in _PASSES and not old.bad:
        return ""
    return "mended" if passes and (old.bad or old.outcome == "xfailed") else "changed"


_PASSES = ("passed", "xpassed")


def _by_key(results: Iterable[Result]) -> dict[_Key, Result]:
    """Return results by zoo, model, check and version; of several, the worst."""
    found: dict[_Key, Result] = {}
    for result in sorted(results, key=badness, reverse=True):
        found[result.zoo, result.model, result.check, result.version] = result
    return found


def _worst_first(changes: Iterable[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda item: (badness(item.result), item.result.zoo, item.result.model)))


def _rows(results: Iterable[Result]) -> dict[tuple[str, str], Row]:
    return {(row.zoo, row.model): row for row in matrix_of(JournalHeader(), results).rows}


def _both(old: Mapping[tuple[str, str], Row], new: Mapping[tuple[str, str], Row]) -> Iterator[tuple[Row, Row]]:
    """Yield models that completed the same checks in both runs; the times of an aborted run are not comparable."""
    for key, row in new.items():
        was = old.get(key)
        if was is not None and not was.bad and not row.bad and _made(was) == _made(row):
            yield was, row


def _made(row: Row) -> set[tuple[str, str, bool]]:
    return {(item.check, item.version, item.outcome == "skipped") for item in row.results}


def _slower(
    old: Mapping[tuple[str, str], Row], new: Mapping[tuple[str, str], Row], limits: Limits
) -> tuple[tuple[Growth, ...], float | None]:
    pairs = [(was, row) for was, row in _both(old, new) if was.seconds > 0]
    pace = median(row.seconds / was.seconds for was, row in pairs) if len(pairs) >= _ENOUGH else None
    expected = pace or 1.0
    found = [
        _growth(row, was.seconds, row.seconds, "s")
        for was, row in pairs
        if row.seconds > was.seconds * expected * limits.slower
        and row.seconds - was.seconds * expected > limits.seconds
    ]
    return _largest_first(found), pace


def _larger(
    old: Mapping[tuple[str, str], Row], new: Mapping[tuple[str, str], Row], limits: Limits
) -> tuple[Growth, ...]:
    found = []
    for was, row in _both(old, new):
        if was.peak_memory_mb and row.peak_memory_mb:
            more = row.peak_memory_mb - was.peak_memory_mb
            if row.peak_memory_mb > was.peak_memory_mb * limits.larger and more > limits.megabytes:
                found.append(_growth(row, was.peak_memory_mb, row.peak_memory_mb, "MB"))
    return _largest_first(found)


def _growth(row: Row, old: float, new: float, unit: str) -> Growth:
    return Growth(row.zoo, row.model, old, new, unit, row.results[0].repro)


def _largest_first(found: Iterable[Growth]) -> tuple[Growth, ...]:
    return tuple(sorted(found, key=lambda item: (-item.factor, item.zoo, item.model)))
