"""State what a report is of: zoos, versions, commits and date, and whether the run covers everything."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from pytest_headswap._text import format_duration, join_first, pluralize
from pytest_headswap.results.completeness import left_out
from pytest_headswap.results.matrix import Matrix

_OWN_VERSIONS = ("pytest-headswap", "pytest", "torch")
_COMMIT = 10


class Fact(NamedTuple):
    """A line at the top of a report. `whole` is False if the report covers less than a reader may think."""

    name: str
    text: str
    whole: bool = True


def facts(matrix: Matrix) -> list[Fact]:
    """Return what the report is of."""
    header = matrix.header
    zoos = zoo_names(matrix)
    evidence = header.options.get("evidence", "auto")
    found = [
        Fact("Zoos" if len(zoos) > 1 else "Zoo", join_first(zoos)),
        Fact("Library", ", ".join(_libraries(matrix))),
        Fact("torch", header.versions.get("torch", "")),
        Fact("Python", header.python),
        Fact("Run", _listed(readable_date(header.started), f"{format_duration(matrix.seconds)} of tests")),
        Fact("Scope", *_scope(matrix)),
        Fact("Devices", ", ".join(header.devices)),
        Fact("Evidence", f"{evidence} only" if evidence != "auto" else ""),
        Fact("Taken over", _taken_over(matrix) if matrix.taken_over else "", whole=False),
    ]
    return [fact for fact in found if fact.text]


def zoo_names(matrix: Matrix) -> list[str]:
    """Return the names of the zoos of a report."""
    return list(dict.fromkeys([*matrix.header.zoos, *(row.zoo for row in matrix.rows)]))


def readable_date(text: str) -> str:
    """Return the time of a run, such as `2026-11-29 01:48 UTC`; a text in another form as it is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".rstrip()


def _listed(*texts: str) -> str:
    return ", ".join(filter(None, texts))


def _scope(matrix: Matrix) -> tuple[str, bool]:
    """Return what the run covers, and whether that is everything."""
    header = matrix.header
    reasons = list(left_out(header, (result for row in matrix.rows for result in row.results)))
    if matrix.missing:
        return "; ".join(["Incomplete: results are missing", *reasons]), False
    if sample := header.options.get("sample"):
        return "; ".join([f"A sample: --headswap-sample={sample}", *reasons]), False
    if reasons:
        return f"Partial: {'; '.join(reasons)}", False
    size = pluralize(len(matrix.rows), "architecture")
    if not matrix.rows or any("architectures" not in header.zoos.get(zoo, {}) for zoo in zoo_names(matrix)):
        return f"{size}; the journal does not say how many there are", False
    return f"Whole: {'all ' if len(matrix.rows) > 1 else ''}{size}, all default checks", True


def _libraries(matrix: Matrix) -> Iterator[str]:
    """Yield the libraries of the zoos, with version and commit."""
    header = matrix.header
    commits = {name: commit for of_zoo in header.zoos.values() for name, commit in of_zoo.get("commits", {}).items()}
    versions = {name: text for name, text in header.versions.items() if name not in _OWN_VERSIONS}
    for name in dict.fromkeys([*versions, *commits]):
        digest, _, changes = commits.get(name, "").partition(" ")
        stated = f"(commit {' '.join(filter(None, [digest[:_COMMIT], changes]))})" if digest else ""
        yield " ".join(filter(None, [name, versions.get(name, ""), stated]))


def _taken_over(matrix: Matrix) -> str:
    runs = sorted({result.taken_over for row in matrix.rows for result in row.results if result.taken_over})
    when = " to ".join(dict.fromkeys([readable_date(runs[0]), readable_date(runs[-1])]))
    number = f"{matrix.taken_over:,} of {pluralize(matrix.outcomes.total(), 'result')}"
    return f"{number}, from {pluralize(len(runs), 'earlier run')} ({when})"
