"""Format a comparison of two runs as Markdown, which also reads well in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pytest_headswap._text import escape_unprintable, format_duration, pluralize
from pytest_headswap.report.markdown import MAX_BYTES, escaped, folded_commands, join_within_limit, list_more, table
from pytest_headswap.results.compare import Change, Comparison, CostIncrease

_MAX_LISTED = 50
_TITLES = {
    "broken": "Broken",
    "fixed": "Fixed",
    "changed": "Otherwise changed",
    "removed": "Removed",
    "slower": "Slower",
    "larger": "Larger",
}


def headline(comparison: Comparison) -> str:
    """Return the counts in one line."""
    parts = [f"{len(found)} {title.lower()}" for title, found in _lists(comparison) if found]
    return f"{pluralize(comparison.shared, 'shared result')}: {', '.join(parts) or 'nothing changed'}"


def format_markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown, within the size limit of a CI step summary, the worst changes first."""
    parts = [f"## Head swaps compared\n\n{escaped(headline(comparison), 600)}\n"]
    if comparison.missing:
        parts.append(f"**Incomplete**: {escaped('; '.join(comparison.missing), 600)}\n")
    if comparison.speed_ratio is not None:
        parts.append(f"The second run took {comparison.speed_ratio:.2f} times as long for the median model.\n")
    for title, found in _lists(comparison):
        if found:
            rows = ([escaped(cell, 400) for cell in _row(item)] for item in found[:_MAX_LISTED])
            listed = table(["test", "before", "after"], rows) + list_more(len(found) - _MAX_LISTED)
            parts.append(f"### {title}: {len(found):,}\n\n{listed}")
    commands = [change.result.repro for change in comparison.broken]
    commands += [increase.repro for increase in (*comparison.slower, *comparison.larger)]
    commands = [escape_unprintable(command) for command in dict.fromkeys(commands) if command]
    parts.append(folded_commands(commands[:_MAX_LISTED]))
    return join_within_limit(parts, MAX_BYTES)


def _lists(comparison: Comparison) -> Iterator[tuple[str, Sequence[Change | CostIncrease]]]:
    for name, title in _TITLES.items():
        yield title, getattr(comparison, name)


def _row(item: Change | CostIncrease) -> list[str]:
    """Return the cells of an item: its test or model, the state before, and the state after."""
    if isinstance(item, CostIncrease):
        amount: Callable[[float], str] = format_duration if item.unit == "s" else lambda value: f"{value:,.0f} MB"
        return [f"{item.zoo}::{item.model}", amount(item.old), f"{amount(item.new)} ({item.factor:.1f} times)"]
    result = item.result
    version = f" ({result.version})" if result.version else ""
    before = item.old.outcome if item.old is not None else "none"
    after = item.new.outcome if item.new is not None else "none"
    message = item.new.full_message if item.new is not None and after != "passed" else ""
    return [
        f"{result.zoo}::{result.model}::{result.check}{version}",
        before,
        f"{after}: {message}" if message else after,
    ]
