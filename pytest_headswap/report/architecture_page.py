"""Arrange the results of one architecture for its page: a block for each cause, then the checks that passed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from pytest_headswap._check_names import CHECK_NAMES, OPT_IN_CHECK_NAMES
from pytest_headswap._links import page
from pytest_headswap.report.diagram import HeadDiagram, head_diagram
from pytest_headswap.results.causes import Cause, find_causes
from pytest_headswap.results.ids import repeat_checks
from pytest_headswap.results.matrix import Matrix, Row
from pytest_headswap.results.result import Result

PAGE_IDS = ("theme", "matrix-link", "checks-title", "heads-title", "repeat-title")
"""The ids of the page's own elements."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@cache
def anchor(name: str) -> str:
    """Return the id of an element for a check or a version: its name, as far as that can be an id and is not taken."""
    readable = _UNSAFE.sub("-", name)[:60].strip("-")
    if name and readable == name and name not in PAGE_IDS:
        return name
    return f"{readable or 'check'}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"


def column_anchors(matrix: Matrix) -> dict[str, str]:
    """Return where the results of each column of the matrix are on the page of an architecture."""
    return {column: anchor(column) for column in matrix.columns}


@cache
def check_url(check: str) -> str:
    """Return the address of what a built-in check promises; empty for a check of the user."""
    return page("checks", check) if check in (*CHECK_NAMES, *OPT_IN_CHECK_NAMES) else ""


@dataclass(frozen=True)
class Block:
    """The results of an architecture that have one cause."""

    cause: Cause

    @property
    def results(self) -> tuple[Result, ...]:
        return self.cause.results

    @property
    def other_messages(self) -> list[str]:
        """Return the messages other than the first: they differ in numbers or names of checks."""
        return list(dict.fromkeys(item.message for item in self.results if item.message != self.cause.first.message))

    @property
    def expectations(self) -> list[str]:
        """Return what is expected of the results, each statement once."""
        return list(dict.fromkeys(result.expectation for result in self.results if result.expectation))

    @property
    def command(self) -> str:
        """Return the command that repeats the checks."""
        return repeat_checks(self.cause.first.repro, self.cause.checks)


@dataclass(frozen=True)
class ArchitecturePage:
    """What the page of an architecture shows.

    Attributes:
        neighbours: the architectures before and after it by name that have a page; None at the ends.
        failing: those that need attention, before and after it.
        place: its place among those that need attention, from 1; 0 if it does not.
    """

    row: Row
    neighbours: tuple[Row | None, Row | None]
    failing: tuple[Row | None, Row | None]
    place: int

    @cached_property
    def blocks(self) -> list[Block]:
        return [Block(cause) for cause in find_causes(self.row.results)]

    @cached_property
    def checks(self) -> list[str]:
        """Return the names of the checks."""
        return list(dict.fromkeys(result.check for result in self.row.results))

    @cached_property
    def passed(self) -> list[Result]:
        return [result for result in self.row.results if result.outcome == "passed"]

    @property
    def taken_over(self) -> list[str]:
        """Return the times of the runs from which results were taken over."""
        return sorted({result.taken_over for result in self.row.results if result.taken_over})

    @cached_property
    def command(self) -> str:
        """Return the command that repeats all checks; empty if no result has one."""
        checks = self.checks
        repro = next((result.repro for result in self.row.results if result.repro), "")
        return repeat_checks(repro, [] if set(checks) == set(CHECK_NAMES) else checks)

    @cached_property
    def ids(self) -> Mapping[int, list[str]]:
        """Return the ids of each result by its `id()`: of its check and its version, where it is the first."""
        found: dict[int, list[str]] = {}
        taken: set[str] = set()
        for result in [*(result for block in self.blocks for result in block.results), *self.passed]:
            names = dict.fromkeys([anchor(result.check), *([anchor(result.version)] if result.version else [])])
            found[id(result)] = [name for name in names if name not in taken]
            taken.update(names)
        return found

    @property
    def diagrams(self) -> list[HeadDiagram | None]:
        return [head_diagram(head) for head in self.row.anatomy.heads] if self.row.anatomy is not None else []


def architecture_pages(rows: Sequence[Row], failing: Iterable[Row]) -> Iterable[ArchitecturePage]:
    """Yield the pages of these rows; `failing` are those of them that need attention, worst first."""
    failing = list(failing)
    places = {id(row): number for number, row in enumerate(failing)}
    for number, row in enumerate(rows):
        place = places.get(id(row), -1)
        yield ArchitecturePage(
            row,
            (_at(rows, number - 1), _at(rows, number + 1)),
            (_at(failing, place - 1), _at(failing, place + 1)),
            place + 1,
        )


def _at(rows: Sequence[Row], number: int) -> Row | None:
    return rows[number] if 0 <= number < len(rows) else None
