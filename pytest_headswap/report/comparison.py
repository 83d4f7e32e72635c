"""Format a comparison of two runs for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pytest_headswap._text import counted, duration, one_line, printable, shortened
from pytest_headswap.report.markdown import MOST_BYTES, bounded, escaped, fenced, table
from pytest_headswap.results.compare import Change, Comparison, Growth

_MOST = 50
_TITLES = {
    "broke": "Broke",
    "mended": "Mended",
    "changed": "Otherwise changed",
    "gone": "No longer there",
    "slower": "Slower",
    "larger": "Larger",
}


def headline(comparison: Comparison) -> str:
    """Return the counts in one line."""
    told = [f"{len(found)} {title.lower()}" for title, found in _lists(comparison) if found]
    return f"{counted(comparison.shared, 'shared result')}: {', '.join(told) or 'nothing changed'}"


def in_words(comparison: Comparison, width: int = 120) -> Iterator[str]:
    """Yield lines for a terminal, the worst changes first."""
    yield headline(comparison)
    yield from (f"not whole: {printable(sentence)}" for sentence in comparison.missing)
    if comparison.pace is not None:
        yield f"pace: the second run took {comparison.pace:.2f} times as long for the model in the middle"
    for title, found in _lists(comparison):
        if found:
            yield ""
            yield f"{title}: {len(found)}"
            for item in found[:_MOST]:
                yield shortened(f"  {_name(item)}  {_what(item)}", width)
                if title in ("Broke", "Slower", "Larger") and (repro := _repro(item)):
                    yield f"    {printable(repro)}"
            if len(found) > _MOST:
                yield f"  and {len(found) - _MOST:,} more"


def as_markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown for a CI step summary, within its size limit."""
    parts = [f"## Head swaps compared\n\n{escaped(headline(comparison), 600)}\n"]
    if comparison.missing:
        parts.append(f"**Not whole**: {escaped('; '.join(comparison.missing), 600)}\n")
    for title, found in _lists(comparison):
        if found:
            rows = ([escaped(_name(item), 160), escaped(_what(item), 400)] for item in found[:_MOST])
            more = f"\n… and {len(found) - _MOST:,} more.\n" if len(found) > _MOST else ""
            parts.append(f"### {title}: {len(found):,}\n\n{table(['what', 'how'], rows)}{more}")
    commands = [printable(command) for item in comparison.broke[:_MOST] if (command := _repro(item))]
    if commands:
        parts.append(
            "<details><summary>Commands that repeat what broke</summary>\n\n"
            + fenced(commands, "bash")
            + "\n</details>\n"
        )
    return bounded(parts, MOST_BYTES)


def _lists(comparison: Comparison) -> Iterator[tuple[str, Sequence[Change | Growth]]]:
    for name, title in _TITLES.items():
        yield title, getattr(comparison, name)


def _name(item: Change | Growth) -> str:
    if isinstance(item, Growth):
        return printable(f"{item.zoo}::{item.model}")
    result = item.result
    version = f" ({result.version})" if result.version else ""
    return printable(f"{result.zoo}::{result.model}::{result.check}{version}")


def _what(item: Change | Growth) -> str:
    if isinstance(item, Growth):
        amount: Callable[[float], str] = duration if item.unit == "s" else lambda value: f"{value:,.0f} MB"
        return f"{amount(item.old)} -> {amount(item.new)}, {item.factor:.1f} times"
    was = item.old.outcome if item.old is not None else "new"
    if item.new is None:
        return f"{was} -> gone"
    message = f": {one_line(item.new.told)}" if item.new.told and item.new.outcome != "passed" else ""
    return f"{was} -> {item.new.outcome}{message}"


def _repro(item: Change | Growth) -> str:
    return item.repro if isinstance(item, Growth) else item.result.repro
