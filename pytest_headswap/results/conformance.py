"""Count the architectures of a run that conform, for a badge: nothing may look better than it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from pytest_headswap._text import pluralize
from pytest_headswap.results.completeness import missing_results
from pytest_headswap.results.matrix import Row, build_matrix
from pytest_headswap.results.result import NOT_RUN
from pytest_headswap.results.run import Run

Verdict = Literal["conforms", "bad", "missing", "expected", "skipped"]
"""An architecture conforms if each of its checks passes or does not apply, and at least one passes. It is `bad` if a
result needs attention, `missing` if it lacks results, `expected` if a failure is expected or a check is excluded from
running, and `skipped` if no check applies.
"""

_TEXTS: dict[Verdict, str] = {
    "bad": "need attention",
    "missing": "lack results",
    "expected": "expected to fail, or not run",
    "skipped": "skipped, since no check applies",
}


@dataclass(frozen=True)
class Conformance:
    """The architectures of a run by verdict.

    Attributes:
        part: why the run does not cover its zoo: `incomplete`, `sample` or `part`; empty if it does.
        details: sentences about what is missing or was left out.
    """

    counts: Counter[Verdict]
    part: Literal["", "incomplete", "sample", "part"]
    details: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Return whether all architectures of the whole zoo conform, except for those that no check applies to."""
        return (
            not self.part
            and self.counts["conforms"] + self.counts["skipped"] == self.counts.total() > self.counts["skipped"]
        )

    def __str__(self) -> str:
        """Return a few words: `1,353 / 1,371 conform, 18 skipped`."""
        skipped = f", {self.counts['skipped']:,} skipped" if self.counts["skipped"] else ""
        part = f" ({self.part})" if self.part else ""
        return f"{self.counts['conforms']:,} / {self.counts.total():,} conform{skipped}{part}"

    @property
    def sentence(self) -> str:
        """Return all counts in words."""
        parts = [f"{self.counts['conforms']:,} of {pluralize(self.counts.total(), 'architecture')} conform"]
        parts += [f"{text}: {self.counts[verdict]:,}" for verdict, text in _TEXTS.items() if self.counts[verdict]]
        return "; ".join([*parts, *self.details])


def count_conforming(run: Run) -> Conformance:
    """Return how many architectures of a run conform."""
    missing = {key[:2] for key in missing_results(run.header, run.results).keys}
    rows = {(row.zoo, row.model): row for row in build_matrix(run.header, run.results).rows}
    counts: Counter[Verdict] = Counter(_verdict(rows.get(model), model in missing) for model in rows.keys() | missing)
    is_sample = any(limit.startswith("a sample") for limit in run.limits)
    part: Literal["", "incomplete", "sample", "part"] = "part" if run.limits else ""
    part = "incomplete" if run.missing else "sample" if is_sample else part
    return Conformance(counts, part, (*(f"incomplete: {text}" for text in run.missing), *run.limits))


def _verdict(row: Row | None, lacks_results: bool) -> Verdict:
    if row is not None and row.failures:
        return "bad"
    if row is None or lacks_results:
        return "missing"
    if any(result.outcome == "xfailed" or result.reason == NOT_RUN for result in row.results):
        return "expected"
    return "skipped" if all(result.outcome == "skipped" for result in row.results) else "conforms"
