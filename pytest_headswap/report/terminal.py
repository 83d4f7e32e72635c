"""Format the end-of-run list of models that need attention, worst first, each with the command that repeats it."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_headswap._text import escape_unprintable, pluralize, single_line, truncate
from pytest_headswap.report.markdown import worst_checks
from pytest_headswap.results.ids import model_id
from pytest_headswap.results.matrix import Matrix

MAX_MODELS = 9  # two lines each


def worst_lines(matrix: Matrix, width: int) -> Iterator[str]:
    """Yield two lines for each of the worst architectures; nothing if none needs attention."""
    rows = matrix.worst_first
    if not rows:
        return
    shown = rows[:MAX_MODELS]
    indent = max(len(row.worst.outcome) for row in shown) + 4
    yield f"needs attention, worst first: {pluralize(len(rows), 'architecture')}"
    for row in shown:
        what = f"{model_id(row.zoo, row.model)} ({worst_checks(row)}): {row.worst.full_message}"
        yield truncate(f"  {row.worst.outcome:<{indent - 2}}{single_line(what)}", max(width, 40))
        # a truncated command would not run
        yield f"{' ' * indent}{escape_unprintable(row.worst.repro)}"
    if len(rows) > len(shown):
        yield f"  and {pluralize(len(rows) - len(shown), 'more architecture', 'more architectures')}, in the report"
