"""Encode the data of the matrix page as compact JSON. Thousands of failures with long messages must fit.

Lists store repeated texts once, and cells refer to them by index:

    {"columns": [...], "outcomes": [...], "evidence": [...], "zoos": [...], "families": [...], "messages": [...],
     "rows": [[name, zoo, family, page, seconds, memory, differs, [cell, ...]], ...]}

A cell is 0 if there is no result, or else `[outcome, evidence, seconds, message, bad, results]`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pytest_headswap._text import escape_unprintable, single_line, truncate
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


class _StringTable:
    """Numbers texts, and stores each of them once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


class _MessageTable(_StringTable):
    """Numbers messages. Number 0 is the empty message; it also replaces messages that no longer fit."""

    def __init__(self) -> None:
        super().__init__()
        self.left = _ALL_MESSAGES
        self("")

    def __call__(self, text: str) -> int:
        text = truncate(single_line(text[: 2 * _MESSAGE]), _MESSAGE)
        if text not in self.numbers:
            size = len(script_safe(text).encode())
            if size > self.left:
                return 0
            self.left -= size
        return super().__call__(text)


def matrix_data(matrix: Matrix) -> dict[str, Any]:
    """Return the data of the page."""
    zoos, families, evidence, messages = _StringTable(), _StringTable(), _StringTable(), _MessageTable()
    evidence("")
    for row in matrix.worst_first:  # failures first, so that their messages fit
        for result in row.failures:
            messages(result.message)

    def cell(results: Sequence[Result]) -> Any:
        if not results:
            return 0
        first = results[0]
        return [
            BY_SEVERITY.index(first.outcome),
            evidence(first.evidence),
            round(sum(result.seconds for result in results), 2),
            messages(first.message) if first.outcome != "passed" else 0,
            sum(result.needs_attention for result in results),
            len(results),
        ]

    def line(row: Row) -> list[Any]:
        return [
            truncate(escape_unprintable(row.model), _NAME),
            zoos(escape_unprintable(row.zoo)),
            families(escape_unprintable(row.family)),
            row.file_name,
            round(row.seconds, 2),
            round(row.peak_memory_mb) if row.peak_memory_mb is not None else None,
            int(bool(row.checks_that_differ)),
            [cell(results) for results in matrix.cells(row)],
        ]

    rows = [line(row) for row in matrix.rows]
    return {
        "columns": [escape_unprintable(column) for column in matrix.columns],
        "byVersion": bool(matrix.versions),
        "outcomes": BY_SEVERITY,
        "symbols": [SYMBOLS[outcome] for outcome in BY_SEVERITY],
        "bad": [outcome in FAILURES for outcome in BY_SEVERITY],
        "counts": [matrix.outcomes[outcome] for outcome in BY_SEVERITY],
        "evidence": list(evidence.numbers),
        "zoos": list(zoos.numbers),
        "families": list(families.numbers),
        "messages": list(messages.numbers),
        "rows": rows,
    }


def script_safe(data: Any) -> str:
    """Return JSON that is safe in an HTML `<script>`: it can neither end the script nor start a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text
