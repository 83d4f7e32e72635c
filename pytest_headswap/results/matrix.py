"""Arrange results as the matrix that all reports show: a row for each architecture, a column for each check.

If the journal covers several versions, the columns are the versions, and each cell combines all checks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_headswap._text import file_name
from pytest_headswap.results.completeness import missing_sentences
from pytest_headswap.results.head_record import SwappedHeads
from pytest_headswap.results.journal import JournalHeader
from pytest_headswap.results.result import BY_SEVERITY, Outcome, Result

_RANK = {outcome: rank for rank, outcome in enumerate(BY_SEVERITY)}


def severity(result: Result) -> int:
    """Return the rank of a result's outcome. The worst outcome has rank 0."""
    return _RANK[result.outcome]


@dataclass(frozen=True)
class Row:
    """All results of one architecture, at least one, ordered by check and version."""

    zoo: str
    model: str
    results: tuple[Result, ...]
    versions: tuple[str, ...]

    @cached_property
    def worst(self) -> Result:
        """Return the first of the worst results."""
        return min(self.results, key=severity)

    @cached_property
    def failures(self) -> tuple[Result, ...]:
        """Return the results that need attention, worst first."""
        return tuple(sorted((result for result in self.results if result.needs_attention), key=severity))

    @cached_property
    def seconds(self) -> float:
        """Return the total wall time of the checks."""
        return sum(result.seconds for result in self.results)

    @cached_property
    def peak_memory_mb(self) -> float | None:
        """Return the highest peak memory."""
        peaks = [result.peak_memory_mb for result in self.results if result.peak_memory_mb is not None]
        return max(peaks, default=None)

    @property
    def family(self) -> str:
        """Return the family that the zoo states; empty if it states none."""
        return next((result.family for result in self.results if result.family), "")

    @property
    def anatomy(self) -> SwappedHeads | None:
        """Return the heads; None if none was found or the journal does not record them."""
        return next((result.anatomy for result in self.results if result.anatomy is not None), None)

    @property
    def file_name(self) -> str:
        """Return the file name of the architecture's page."""
        return file_name(self.zoo, self.model)

    @cached_property
    def checks_that_differ(self) -> frozenset[str]:
        """Return the checks whose outcomes differ between versions."""
        if len(self.versions) < 2:
            return frozenset()
        outcomes: dict[str, dict[str, Outcome]] = {}
        for result in sorted(self.results, key=severity, reverse=True):
            outcomes.setdefault(result.check, {})[result.version] = result.outcome
        return frozenset(
            check for check, of in outcomes.items() if len({of.get(version) for version in self.versions}) > 1
        )


@dataclass(frozen=True)
class Matrix:
    """The results of a journal as rows.

    Attributes:
        versions: the versions in a merged journal; empty for the journal of one run.
        missing: sentences about results that the run should have but lacks.
    """

    header: JournalHeader
    rows: tuple[Row, ...]
    checks: tuple[str, ...]
    versions: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the titles of the columns."""
        return self.versions or self.checks

    def cells(self, row: Row) -> Iterator[list[Result]]:
        """Yield the results of a row for each column, worst first."""
        cells: dict[str, list[Result]] = {column: [] for column in self.columns}
        for result in sorted(row.results, key=severity):
            cells[result.version if self.versions else result.check].append(result)
        yield from cells.values()

    @cached_property
    def outcomes(self) -> Counter[Outcome]:
        """Return the number of results by outcome."""
        return Counter(result.outcome for row in self.rows for result in row.results)

    @cached_property
    def seconds(self) -> float:
        """Return the total wall time of all tests."""
        return sum(row.seconds for row in self.rows)

    @property
    def taken_over(self) -> int:
        """Return the number of results that were taken over from earlier runs."""
        return sum(bool(result.taken_over) for row in self.rows for result in row.results)

    @cached_property
    def worst_first(self) -> list[Row]:
        """Return the rows that need attention: the worst outcome first, then the most failures."""
        rows = [row for row in self.rows if row.failures]
        return sorted(rows, key=lambda row: (severity(row.worst), -len(row.failures), row.zoo, row.model))


def build_matrix(header: JournalHeader, results: Iterable[Result]) -> Matrix:
    """Return the matrix of a journal, with its rows sorted by name."""
    results = list(results)
    grouped: dict[tuple[str, str], list[Result]] = {}
    names: dict[str, dict[str, None]] = {"checks": {}, "versions": {}}
    for result in results:
        grouped.setdefault((result.zoo, result.model), []).append(result)
        names["checks"][result.check] = None
        names["versions"][result.version] = None
    versions: tuple[str, ...] = ()
    if any(names["versions"]):
        order = (item["version"] for item in header.merged.get("versions", ()))
        versions = _ordered(names["versions"], tuple(order))
    checks = _ordered(names["checks"], header.options.get("checks", ()))

    def place(result: Result) -> tuple[int, int]:
        return checks.index(result.check), versions.index(result.version) if versions else 0

    rows = tuple(
        Row(zoo, model, tuple(sorted(group, key=place)), versions) for (zoo, model), group in sorted(grouped.items())
    )
    return Matrix(header, rows, checks, versions, missing_sentences(header, results))


def _ordered(names: Iterable[str], order: Sequence[str]) -> tuple[str, ...]:
    """Return the names in the order of the run."""
    place = {name: number for number, name in enumerate(order)}
    return tuple(sorted(names, key=lambda name: place.get(name, len(place))))
