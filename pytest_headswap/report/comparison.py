"""Format a comparison of two runs for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pytest_headswap._text import escape_unprintable, format_duration, pluralize, single_line, truncate
from pytest_headswap.report.markdown import MAX_BYTES, code_block, escaped, join_within_limit, table
from pytest_headswap.results.compare import Change, Comparison, CostIncrease

_MAX_LISTED = 50
_TITLES = {
    "broken": "Broken",
    "fixed": "Fixed",
    "changed": "Otherwise changed",
    "removed": "No longer there",
    "slower": "Slower",
    "larger": "Larger",
}


def headline(comparison: Comparison) -> str:
    """Return the counts in one line."""
    parts = [f"{len(found)} {title.lower()}" for title, found in _lists(comparison) if found]
    return f"{pluralize(comparison.shared, 'shared result')}: {', '.join(parts) or 'nothing changed'}"


def format_text(comparison: Comparison, width: int = 120) -> Iterator[str]:
    """Yield lines for a terminal, the worst changes first."""
    yield headline(comparison)
    yield from (f"not whole: {escape_unprintable(sentence)}" for sentence in comparison.missing)
    if comparison.speed_ratio is not None:
        yield f"pace: the second run took {comparison.speed_ratio:.2f} times as long for the model in the middle"
    for title, found in _lists(comparison):
        if found:
            yield ""
            yield f"{title}: {len(found)}"
            for item in found[:_MAX_LISTED]:
                yield truncate(f"  {_name(item)}  {_details(item)}", width)
                if title in ("Broken", "Slower", "Larger") and (repro := _repro(item)):
                    yield f"    {escape_unprintable(repro)}"
            if len(found) > _MAX_LISTED:
                yield f"  and {len(found) - _MAX_LISTED:,} more"


def format_markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown for a CI step summary, within its size limit."""
    parts = [f"## Head swaps compared\n\n{escaped(headline(comparison), 600)}\n"]
    if comparison.missing:
        parts.append(f"**Not whole**: {escaped('; '.join(comparison.missing), 600)}\n")
    for title, found in _lists(comparison):
        if found:
            rows = ([escaped(_name(item), 160), escaped(_details(item), 400)] for item in found[:_MAX_LISTED])
            more = f"\n… and {len(found) - _MAX_LISTED:,} more.\n" if len(found) > _MAX_LISTED else ""
            parts.append(f"### {title}: {len(found):,}\n\n{table(['what', 'how'], rows)}{more}")
    commands = [escape_unprintable(command) for item in comparison.broken[:_MAX_LISTED] if (command := _repro(item))]
    if commands:
        parts.append(
            "<details><summary>Commands that repeat what broke</summary>\n\n"
            + code_block(commands, "bash")
            + "\n</details>\n"
        )
    return join_within_limit(parts, MAX_BYTES)


def _lists(comparison: Comparison) -> Iterator[tuple[str, Sequence[Change | CostIncrease]]]:
    for name, title in _TITLES.items():
        yield title, getattr(comparison, name)


def _name(item: Change | CostIncrease) -> str:
    if isinstance(item, CostIncrease):
        return escape_unprintable(f"{item.zoo}::{item.model}")
    result = item.result
    version = f" ({result.version})" if result.version else ""
    return escape_unprintable(f"{result.zoo}::{result.model}::{result.check}{version}")


def _details(item: Change | CostIncrease) -> str:
    if isinstance(item, CostIncrease):
        amount: Callable[[float], str] = format_duration if item.unit == "s" else lambda value: f"{value:,.0f} MB"
        return f"{amount(item.old)} -> {amount(item.new)}, {item.factor:.1f} times"
    was = item.old.outcome if item.old is not None else "new"
    if item.new is None:
        return f"{was} -> gone"
    message = (
        f": {single_line(item.new.full_message)}" if item.new.full_message and item.new.outcome != "passed" else ""
    )
    return f"{was} -> {item.new.outcome}{message}"


def _repro(item: Change | CostIncrease) -> str:
    return item.repro if isinstance(item, CostIncrease) else item.result.repro
