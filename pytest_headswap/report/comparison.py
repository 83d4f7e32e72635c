"""Format a comparison of two runs as Markdown, which also reads well in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from pytest_headswap._text import escape_unprintable, format_duration, pluralize
from pytest_headswap.report.markdown import MAX_BYTES, escaped, folded_commands, join_within_limit, list_more, table
from pytest_headswap.results.compare import Change, Comparison, CostIncrease

_MAX_LISTED = 50
_MAX_COMMENT = 60_000  # bytes; GitHub rejects a comment of more than 65,536 characters
_TITLES = {
    "broken": "Broken",
    "fixed": "Fixed",
    "changed": "Otherwise changed",
    "removed": "Removed",
    "slower": "Slower",
    "larger": "Larger",
}


_COSTS = ("Slower", "Larger")  # not part of a comment: a small run is too noisy


def headline(comparison: Comparison, *, comment: bool = False) -> str:
    """Return the counts in one line."""
    numbers = [pluralize(comparison.shared, "shared result")]
    numbers += [f"{comparison.added:,} new"] if comparison.added else []
    numbers += [f"{comparison.taken_over:,} taken over"] if comparison.taken_over else []
    parts = [f"{len(found):,} {title.lower()}" for title, found in _lists(comparison, comment) if found]
    return f"{', '.join(numbers)}: {', '.join(parts) or 'nothing changed'}"


def format_comment(comparison: Comparison) -> str:
    """Return only what is broken, fixed or changed, within the size limit of a comment on GitHub."""
    parts = [f"**Head swaps**: {escaped(headline(comparison, comment=True), 600)}\n"]
    if comparison.persistent:
        parts.append(f"Needing attention in both runs: {pluralize(comparison.persistent, 'result')}.\n")
    parts += [*_caveats(comparison), *_tables(comparison, max_listed=20, max_chars=200, comment=True)]
    parts.append(_commands(comparison.broken, 20))
    return join_within_limit(parts, _MAX_COMMENT)


def format_markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown, within the size limit of a CI step summary, the worst changes first."""
    parts = [f"## Head swaps compared\n\n{escaped(headline(comparison), 600)}\n"]
    parts += _caveats(comparison)
    if comparison.speed_ratio is not None:
        parts.append(f"The second run took {comparison.speed_ratio:.2f} times as long for the median model.\n")
    parts += _tables(comparison, max_listed=_MAX_LISTED, max_chars=400)
    parts.append(_commands((*comparison.broken, *comparison.slower, *comparison.larger), _MAX_LISTED))
    return join_within_limit(parts, MAX_BYTES)


def _caveats(comparison: Comparison) -> Iterator[str]:
    if comparison.sample:
        yield f"**A sample** ({escaped(comparison.sample, 100)}): other models are not compared.\n"
    if comparison.missing:
        yield f"**Incomplete**: {escaped('; '.join(comparison.missing), 600)}\n"


def _tables(comparison: Comparison, *, max_listed: int, max_chars: int, comment: bool = False) -> Iterator[str]:
    for title, found in _lists(comparison, comment):
        if found:
            rows = ([escaped(cell, max_chars) for cell in _row(item)] for item in found[:max_listed])
            listed = table(["test", "before", "after"], rows) + list_more(len(found) - max_listed)
            yield f"### {title}: {len(found):,}\n\n{listed}"


def _commands(items: Iterable[Change | CostIncrease], max_listed: int) -> str:
    commands = (item.result.repro if isinstance(item, Change) else item.repro for item in items)
    unique = [escape_unprintable(command) for command in dict.fromkeys(commands) if command]
    return folded_commands(unique[:max_listed])


def _lists(comparison: Comparison, comment: bool = False) -> Iterator[tuple[str, Sequence[Change | CostIncrease]]]:
    for name, title in _TITLES.items():
        if not (comment and title in _COSTS):
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
