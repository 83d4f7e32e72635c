"""Encode the data of the matrix page as compact JSON, so that a hundred thousand architectures fit.

Texts, cells and whole rows of cells that occur more than once are stored once, and referred to by index:

    {"columns": [...], "outcomes": [...], "evidence": [...], "zoos": [...], "families": [...], "messages": [...],
     "causes": [code, ...], "cells": [0, [outcome, evidence, message, bad, results, [cause, ...]], ...],
     "patterns": [[cell, ...], ...],
     "names": [...], "pages": [...], "zoo": [...], "family": [...], "pattern": [...], "seconds": [...], ...}

The last line has one value for each architecture. A page is the name of its file, or only its digest if the rest of the
name is that of the architecture; empty if there is none. In messages, a control character stands for the name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pytest_headswap._text import escape_unprintable, single_line, truncate
from pytest_headswap.results.causes import Cause, without_name
from pytest_headswap.results.matrix import Matrix, Row
from pytest_headswap.results.result import BY_SEVERITY, FAILURES, Outcome, Result

SYMBOLS: dict[Outcome, str] = {
    "crashed": "C",
    "timeout": "T",
    "failed": "F",
    "error": "E",
    "xpassed": "X",
    "xfailed": "x",
    "skipped": "–",  # noqa: RUF001 - a dash as wide as a letter
    "passed": "✓",
}

_MESSAGE = 240
_ALL_MESSAGES = 2_500_000  # bytes, as encoded in the page
_NAME = 300
_DEVICE = re.compile(r"[a-z]+:\d")


def evidence_letter(evidence: str) -> str:
    """Return the letter that tells a kind of evidence from others in a chip; empty for numeric or no evidence."""
    for start in ("abstract", "simulated"):
        if evidence.startswith(start):
            return start[0]
    return "d" if _DEVICE.match(evidence) else ""


class _Table:
    """Numbers values, and stores each of them once."""

    def __init__(self, *first: Any) -> None:
        self.numbers: dict[Any, int] = {value: number for number, value in enumerate(first)}

    def __call__(self, value: Any) -> int:
        return self.numbers.setdefault(value, len(self.numbers))


class _MessageTable(_Table):
    """Numbers messages. Number 0 is the empty message; it also replaces messages that no longer fit."""

    def __init__(self) -> None:
        super().__init__("")
        self.left = _ALL_MESSAGES

    def of(self, result: Result) -> int:
        """Return the number of a result's message."""
        name = single_line(result.model)
        text = truncate(without_name(single_line(result.message[: 4 * _MESSAGE]), name), _MESSAGE)
        if text not in self.numbers:
            size = len(script_safe(text).encode())
            if size > self.left:
                return 0
            self.left -= size
        return self(text)


def matrix_data(
    matrix: Matrix, causes: Sequence[Cause] = (), pages: Collection[str] = (), anchors: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the data of the page.

    Args:
        matrix: the results.
        causes: the causes that the page lists and that the matrix can be filtered by.
        pages: the file names of the pages that exist.
        anchors: where on the page of an architecture the results of each column are.
    """
    zoos, families, evidence = _Table(), _Table(), _Table("")
    messages, cells, patterns = _MessageTable(), _Table(0), _Table()
    cause_of = {id(result): number for number, cause in enumerate(causes) for result in cause.results}
    for row in matrix.worst_first:  # failures first, so that their messages fit
        for result in row.failures:
            messages.of(result)

    def cell(results: Sequence[Result]) -> int:
        if not results:
            return 0
        first = results[0]
        return cells(
            (
                BY_SEVERITY.index(first.outcome),
                evidence(first.evidence),
                messages.of(first) if first.outcome != "passed" else 0,
                sum(result.needs_attention for result in results),
                len(results),
                tuple(sorted({cause_of[id(result)] for result in results if id(result) in cause_of})),
            )
        )

    def page(row: Row, shown: str) -> str:
        if row.file_name not in pages:
            return ""
        digest = row.file_name.removesuffix(".html").rpartition("-")[2]
        return digest if f"{shown}-{digest}.html" == row.file_name else row.file_name

    rows = matrix.rows
    names = [truncate(escape_unprintable(row.model), _NAME) for row in rows]
    return {
        "columns": [escape_unprintable(column) for column in matrix.columns],
        "anchors": [(anchors or {}).get(column, "") for column in matrix.columns],
        "byVersion": bool(matrix.versions),
        "outcomes": BY_SEVERITY,
        "symbols": [SYMBOLS[outcome] for outcome in BY_SEVERITY],
        "bad": [outcome in FAILURES for outcome in BY_SEVERITY],
        "counts": [matrix.outcomes[outcome] for outcome in BY_SEVERITY],
        "causes": [cause.code for cause in causes],
        "names": names,
        "pages": [page(row, name) for row, name in zip(rows, names, strict=True)],
        "zoo": [zoos(escape_unprintable(row.zoo)) for row in rows],
        "family": [families(escape_unprintable(row.family)) for row in rows],
        "pattern": [patterns(tuple(map(cell, matrix.cells(row)))) for row in rows],
        "seconds": [round(row.seconds, 2) for row in rows],
        "memory": [round(row.peak_memory_mb) if row.peak_memory_mb is not None else None for row in rows],
        "differs": [number for number, row in enumerate(rows) if row.checks_that_differ],
        "zoos": list(zoos.numbers),
        "families": list(families.numbers),
        "evidence": list(evidence.numbers),
        "letters": list(map(evidence_letter, evidence.numbers)),
        "messages": list(messages.numbers),
        "cells": list(cells.numbers),
        "patterns": list(patterns.numbers),
    }


def script_safe(data: Any) -> str:
    """Return JSON that is safe in an HTML `<script>`: it can neither end the script nor start a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text
