"""Compare two journals: what broke, was fixed, or became slower or larger.

Machines differ and clocks are noisy. Times are therefore compared for whole models, relative to the median change, and
small differences are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import median

from pytest_headswap.results.differences import differences
from pytest_headswap.results.journal import JournalHeader
from pytest_headswap.results.matrix import Row, build_matrix, severity
from pytest_headswap.results.result import Result
from pytest_headswap.results.run import Run

THRESHOLD = 1.5
"""The default ratio of new to old from which a model counts as slower or larger."""

NOISE_SECONDS = 10.0
"""A model is not slower unless it takes more than this in addition: the first model of a process pays for imports."""

NOISE_MEGABYTES = 200.0
"""A model is not larger unless it takes more than this in addition: its peak includes what earlier models left."""

_MIN_SAMPLES = 10
"""The number of models from which the relative speed of a machine can be estimated."""

_PASSES = ("passed", "xpassed")

_Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Change:
    """A result that changed. `old` or `new` is None if that run lacks the result."""

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
    """A model that takes more time or memory than before."""

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
        broken: results that need attention now and did not before, including those of new models and checks.
        fixed: results that needed attention or failed as expected, and pass now.
        changed: other results whose outcome changed, such as a check that no longer applies.
        removed: results that only the first run has.
        new: results that only the second run has and that need no attention.
        slower, larger: models whose time or memory grew by more than the threshold.
        speed_ratio: the second run's time relative to the first, for the median model; None if the runs share too few
            models.
        shared: the number of results that both runs have.
        added: the number of results that only the second run has.
        taken_over: the number of results that the second run took over from earlier runs.
        persistent: the number of results that needed attention before and still do.
        missing: sentences about results that a run should have but lacks.
        differences: sentences about the versions and options that are not the same.
        sample: the sample that the second run tested, if the first one did not; `removed` is then empty.
    """

    broken: tuple[Change, ...]
    fixed: tuple[Change, ...]
    changed: tuple[Change, ...]
    removed: tuple[Change, ...]
    new: tuple[Change, ...]
    slower: tuple[CostIncrease, ...]
    larger: tuple[CostIncrease, ...]
    speed_ratio: float | None
    shared: int
    added: int
    taken_over: int
    persistent: int
    missing: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    sample: str = ""


def compare_runs(old: Run, new: Run, threshold: float = THRESHOLD) -> Comparison:
    """Compare two runs as `compare` does, and state what they lack and how their versions and options differ."""
    comparison = compare(old.results, new.results, threshold)
    sample = str(new.header.options.get("sample", ""))
    if sample and sample != old.header.options.get("sample"):
        comparison = replace(comparison, removed=(), sample=sample)
    return replace(
        comparison,
        missing=tuple(f"{run.path}: {sentence}" for run in (old, new) for sentence in run.missing),
        differences=tuple(differences(old.header, new.header)),
    )


def compare(old: Iterable[Result], new: Iterable[Result], threshold: float = THRESHOLD) -> Comparison:
    """Compare the results of two runs.

    Args:
        old: the results of the earlier run.
        new: the results of the later run.
        threshold: the ratio of new to old from which a model counts as slower or larger. Times are first divided by
            the median ratio of all models, so that a slower machine makes no model slower.
    """
    old, new = list(old), list(new)
    before, after = _by_key(old), _by_key(new)
    kinds: dict[str, list[Change]] = {"broken": [], "fixed": [], "changed": []}
    for key, result in after.items():
        if kind := _kind(before.get(key), result):
            kinds[kind].append(Change(before.get(key), result))
    removed = [Change(result, None) for key, result in before.items() if key not in after]
    unseen = [Change(None, item) for key, item in after.items() if key not in before and not item.needs_attention]
    pairs = list(_comparable_rows(old, new))
    ratios = [row.seconds / was.seconds for was, row in pairs if was.seconds > 0]
    speed_ratio = median(ratios) if len(ratios) >= _MIN_SAMPLES else None
    seconds = [(row, was.seconds, row.seconds) for was, row in pairs]
    memory = [(row, was.peak_memory_mb, row.peak_memory_mb) for was, row in pairs]
    return Comparison(
        broken=_worst_first(kinds["broken"]),
        fixed=_worst_first(kinds["fixed"]),
        changed=_worst_first(kinds["changed"]),
        removed=_worst_first(removed),
        new=_worst_first(unseen),
        slower=_increases(seconds, "s", speed_ratio or 1.0, threshold, NOISE_SECONDS),
        larger=_increases(memory, "MB", 1.0, threshold, NOISE_MEGABYTES),
        speed_ratio=speed_ratio,
        shared=len(before.keys() & after.keys()),
        added=len(after.keys() - before.keys()),
        taken_over=sum(bool(result.taken_over) for result in after.values()),
        persistent=sum(
            result.needs_attention and before[key].needs_attention for key, result in after.items() if key in before
        ),
    )


def _kind(old: Result | None, new: Result) -> str:
    """Return the list that a change belongs to; empty if nothing changed, or if a new result needs no attention."""
    if old is not None and (old.outcome, old.needs_attention) == (new.outcome, new.needs_attention):
        return ""
    if new.needs_attention:
        return "broken" if old is None or not old.needs_attention else "changed"
    if old is None:
        return ""
    passes = new.outcome in _PASSES
    if passes and old.outcome in _PASSES and not old.needs_attention:
        return ""
    return "fixed" if passes and (old.needs_attention or old.outcome == "xfailed") else "changed"


def _by_key(results: Iterable[Result]) -> dict[_Key, Result]:
    """Return the results by zoo, model, check and version. If there are several, the worst counts."""
    worst: dict[_Key, Result] = {}
    for result in sorted(results, key=severity, reverse=True):
        worst[result.zoo, result.model, result.check, result.version] = result
    return worst


def _worst_first(changes: Iterable[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda item: (severity(item.result), item.result.zoo, item.result.model)))


def _comparable_rows(old: Iterable[Result], new: Iterable[Result]) -> Iterator[tuple[Row, Row]]:
    """Yield the models that completed the same checks in both runs. The cost of an aborted check is not comparable."""
    before = {(row.zoo, row.model): row for row in build_matrix(JournalHeader(), old).rows}
    for row in build_matrix(JournalHeader(), new).rows:
        was = before.get((row.zoo, row.model))
        if was is not None and not was.failures and not row.failures and _checks_run(was) == _checks_run(row):
            yield was, row


def _checks_run(row: Row) -> set[tuple[str, str, bool]]:
    return {(item.check, item.version, item.outcome == "skipped") for item in row.results}


def _increases(
    costs: Iterable[tuple[Row, float | None, float | None]],
    unit: str,
    expected_ratio: float,
    threshold: float,
    noise: float,
) -> tuple[CostIncrease, ...]:
    """Return the models whose cost grew by more than the threshold and the noise, the largest factor first."""
    found = [
        CostIncrease(row.zoo, row.model, old, new, unit, row.results[0].repro)
        for row, old, new in costs
        if old and new and new > old * expected_ratio * threshold and new - old * expected_ratio > noise
    ]
    return tuple(sorted(found, key=lambda item: (-item.factor, item.zoo, item.model)))
