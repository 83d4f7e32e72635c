"""The matrix that all reports show: a row for each architecture, a column for each check.

In a journal of several versions the columns are the versions, and a cell stands for all checks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_headswap._text import file_name
from pytest_headswap.results.head_record import Anatomy
from pytest_headswap.results.journal import JournalHeader
from pytest_headswap.results.missing import sentences_of
from pytest_headswap.results.result import WORST_FIRST, Outcome, Result

_RANK = {outcome: rank for rank, outcome in enumerate(WORST_FIRST)}


def badness(result: Result) -> int:
    """The place of a result's outcome, 0 for the worst."""
    return _RANK[result.outcome]


@dataclass(frozen=True)
class Row:
    """All results of one architecture, in the order of checks and versions; at least one."""

    zoo: str
    model: str
    results: tuple[Result, ...]
    versions: tuple[str, ...]

    @cached_property
    def worst(self) -> Result:
        """The first of the worst results."""
        return min(self.results, key=badness)

    @cached_property
    def bad(self) -> tuple[Result, ...]:
        """What somebody has to look at, worst first."""
        return tuple(sorted((result for result in self.results if result.bad), key=badness))

    @cached_property
    def seconds(self) -> float:
        """Wall time of all checks together."""
        return sum(result.seconds for result in self.results)

    @cached_property
    def peak_memory_mb(self) -> float | None:
        """The highest of the peaks."""
        peaks = [result.peak_memory_mb for result in self.results if result.peak_memory_mb is not None]
        return max(peaks, default=None)

    @property
    def family(self) -> str:
        """The family that the zoo names; empty where it names none."""
        return next((result.family for result in self.results if result.family), "")

    @property
    def anatomy(self) -> Anatomy | None:
        """Its heads; None where none was found, or the journal is of a version that did not write them down."""
        return next((result.anatomy for result in self.results if result.anatomy is not None), None)

    @property
    def page(self) -> str:
        """The file of its page."""
        return file_name(self.zoo, self.model)

    @cached_property
    def differing(self) -> frozenset[str]:
        """The checks that do not have the same outcome in all versions."""
        if len(self.versions) < 2:
            return frozenset()
        outcomes: dict[str, dict[str, Outcome]] = {}
        for result in sorted(self.results, key=badness, reverse=True):
            outcomes.setdefault(result.check, {})[result.version] = result.outcome
        return frozenset(
            check for check, of in outcomes.items() if len({of.get(version) for version in self.versions}) > 1
        )


@dataclass(frozen=True)
class Matrix:
    """A journal as rows.

    `versions`: what the results were made with, empty for a journal of one run.
    `missing`: the results that the run was to have and does not, in sentences.
    """

    header: JournalHeader
    rows: tuple[Row, ...]
    checks: tuple[str, ...]
    versions: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """What stands over the cells."""
        return self.versions or self.checks

    def cells(self, row: Row) -> Iterator[list[Result]]:
        """The results that each column has of a row, worst first."""
        cells: dict[str, list[Result]] = {column: [] for column in self.columns}
        for result in sorted(row.results, key=badness):
            cells[result.version if self.versions else result.check].append(result)
        yield from cells.values()

    @cached_property
    def outcomes(self) -> Counter[Outcome]:
        """How many results have which outcome."""
        return Counter(result.outcome for row in self.rows for result in row.results)

    @cached_property
    def seconds(self) -> float:
        """The wall time of all tests together."""
        return sum(row.seconds for row in self.rows)

    @cached_property
    def worst_first(self) -> list[Row]:
        """The rows that have something bad, the worst first: then those with more of it."""
        rows = [row for row in self.rows if row.bad]
        return sorted(rows, key=lambda row: (badness(row.worst), -len(row.bad), row.zoo, row.model))


def matrix_of(header: JournalHeader, results: Iterable[Result]) -> Matrix:
    """The rows of a journal, in the order of their names."""
    results = list(results)
    grouped: dict[tuple[str, str], list[Result]] = {}
    seen: dict[str, dict[str, None]] = {"checks": {}, "versions": {}}
    for result in results:
        grouped.setdefault((result.zoo, result.model), []).append(result)
        seen["checks"][result.check] = None
        seen["versions"][result.version] = None
    versions: tuple[str, ...] = ()
    if any(seen["versions"]):
        told = (item["version"] for item in header.merged.get("versions", ()))
        versions = _ordered(seen["versions"], tuple(told))
    checks = _ordered(seen["checks"], header.options.get("checks", ()))

    def place(result: Result) -> tuple[int, int]:
        return checks.index(result.check), versions.index(result.version) if versions else 0

    rows = tuple(
        Row(zoo, model, tuple(sorted(group, key=place)), versions) for (zoo, model), group in sorted(grouped.items())
    )
    return Matrix(header, rows, checks, versions, sentences_of(header, results))


def _ordered(seen: Iterable[str], told: Sequence[str]) -> tuple[str, ...]:
    """What was seen, as the run had it in order."""
    place = {name: number for number, name in enumerate(told)}
    return tuple(sorted(seen, key=lambda name: place.get(name, len(place))))
