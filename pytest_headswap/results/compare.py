"""Compare two journals: what broke, was fixed, or became slower or larger.

Machines differ and clocks are noisy. Times are therefore compared for whole models, relative to the median change, and
only if they differ by more than a few seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from pytest_headswap.results.journal import JournalHeader
from pytest_headswap.results.matrix import Row, build_matrix, severity
from pytest_headswap.results.result import Outcome, Result

_MIN_SAMPLES = 10
"""The number of models from which the pace of a machine can be estimated."""

_Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Thresholds:
    """The limits above which a difference counts: it must exceed both the factor and the amount."""

    max_slowdown: float = 1.5
    min_seconds: float = 10.0  # the first model of a process also pays for imports
    max_memory_growth: float = 1.25
    min_megabytes: float = 200.0


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
class CostIncrease:
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
        broken: results that are bad now and were not, including those of new models and checks.
        fixed: results that were bad, or failed as expected, and pass now.
        changed: other results whose outcome changed, such as a check that no longer applies.
        removed: results that no longer exist.
        slower, larger: models that exceed the limits.
        speed_ratio: the second run's time relative to the first, for the median model; None if the runs share too few
            models.
        shared: the number of results in both runs.
        missing: results that either run should have but lacks, as sentences.
    """

    broken: tuple[Change, ...]
    fixed: tuple[Change, ...]
    changed: tuple[Change, ...]
    removed: tuple[Change, ...]
    slower: tuple[CostIncrease, ...]
    larger: tuple[CostIncrease, ...]
    speed_ratio: float | None
    shared: int
    missing: tuple[str, ...] = ()


def compare(old: Iterable[Result], new: Iterable[Result], thresholds: Thresholds | None = None) -> Comparison:
    """Compare the results of two runs."""
    thresholds = thresholds or Thresholds()
    old, new = list(old), list(new)
    before, after = _by_key(old), _by_key(new)
    changes = [
        Change(before.get(key), result)
        for key, result in after.items()
        if key not in before or _verdict(before[key]) != _verdict(result)
    ]
    kinds: dict[str, list[Change]] = {"broken": [], "fixed": [], "changed": []}
    for change in changes:
        kind = _kind(change.old, change.result)
        if kind:
            kinds[kind].append(change)
    removed = [Change(result, None) for key, result in before.items() if key not in after]
    slower, speed_ratio = _slower(_rows(old), _rows(new), thresholds)
    return Comparison(
        broken=_worst_first(kinds["broken"]),
        fixed=_worst_first(kinds["fixed"]),
        changed=_worst_first(kinds["changed"]),
        removed=_worst_first(removed),
        slower=slower,
        larger=_larger(_rows(old), _rows(new), thresholds),
        speed_ratio=speed_ratio,
        shared=len(before.keys() & after.keys()),
    )


def _verdict(result: Result) -> tuple[Outcome, bool]:
    return result.outcome, result.needs_attention


def _kind(old: Result | None, new: Result) -> str:
    """Return the list that a change belongs to; empty if a new result is good."""
    if new.needs_attention:
        return "broken" if old is None or not old.needs_attention else "changed"
    if old is None:
        return ""
    passes = new.outcome in _PASSES
    if passes and old.outcome in _PASSES and not old.needs_attention:
        return ""
    return "fixed" if passes and (old.needs_attention or old.outcome == "xfailed") else "changed"


_PASSES = ("passed", "xpassed")


def _by_key(results: Iterable[Result]) -> dict[_Key, Result]:
    """Return results by zoo, model, check and version; of several, the worst."""
    worst: dict[_Key, Result] = {}
    for result in sorted(results, key=severity, reverse=True):
        worst[result.zoo, result.model, result.check, result.version] = result
    return worst


def _worst_first(changes: Iterable[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda item: (severity(item.result), item.result.zoo, item.result.model)))


def _rows(results: Iterable[Result]) -> dict[tuple[str, str], Row]:
    return {(row.zoo, row.model): row for row in build_matrix(JournalHeader(), results).rows}


def _comparable_rows(
    old: Mapping[tuple[str, str], Row], new: Mapping[tuple[str, str], Row]
) -> Iterator[tuple[Row, Row]]:
    """Yield models that completed the same checks in both runs; the times of an aborted run are not comparable."""
    for key, row in new.items():
        was = old.get(key)
        if was is not None and not was.failures and not row.failures and _checks_made(was) == _checks_made(row):
            yield was, row


def _checks_made(row: Row) -> set[tuple[str, str, bool]]:
    return {(item.check, item.version, item.outcome == "skipped") for item in row.results}


def _slower(
    old: Mapping[tuple[str, str], Row], new: Mapping[tuple[str, str], Row], thresholds: Thresholds
) -> tuple[tuple[CostIncrease, ...], float | None]:
    pairs = [(was, row) for was, row in _comparable_rows(old, new) if was.seconds > 0]
    speed_ratio = median(row.seconds / was.seconds for was, row in pairs) if len(pairs) >= _MIN_SAMPLES else None
    expected = speed_ratio or 1.0
    found = [
        _cost_increase(row, was.seconds, row.seconds, "s")
        for was, row in pairs
        if row.seconds > was.seconds * expected * thresholds.max_slowdown
        and row.seconds - was.seconds * expected > thresholds.min_seconds
    ]
    return _largest_first(found), speed_ratio


def _larger(
    old: Mapping[tuple[str, str], Row], new: Mapping[tuple[str, str], Row], thresholds: Thresholds
) -> tuple[CostIncrease, ...]:
    found = []
    for was, row in _comparable_rows(old, new):
        if was.peak_memory_mb and row.peak_memory_mb:
            more = row.peak_memory_mb - was.peak_memory_mb
            if (
                row.peak_memory_mb > was.peak_memory_mb * thresholds.max_memory_growth
                and more > thresholds.min_megabytes
            ):
                found.append(_cost_increase(row, was.peak_memory_mb, row.peak_memory_mb, "MB"))
    return _largest_first(found)


def _cost_increase(row: Row, old: float, new: float, unit: str) -> CostIncrease:
    return CostIncrease(row.zoo, row.model, old, new, unit, row.results[0].repro)


def _largest_first(increases: Iterable[CostIncrease]) -> tuple[CostIncrease, ...]:
    return tuple(sorted(increases, key=lambda item: (-item.factor, item.zoo, item.model)))
