"""List the changes between two runs for both reports of a comparison, and format them as Markdown.

The Markdown also reads well in a terminal. `comparison_page.py` shows the same lists as a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pytest_headswap._text import escape_unprintable, format_duration, join_first, pluralize
from pytest_headswap.report.markdown import MAX_BYTES, escaped, folded_commands, join_within_limit, list_more, table
from pytest_headswap.results.compare import Change, Comparison, CostIncrease
from pytest_headswap.results.result import Result

_MAX_LISTED = 50
_MAX_COMMENT = 60_000  # bytes; GitHub rejects a comment of more than 65,536 characters
_IN_COMMENT = ("broken", "fixed", "changed", "removed")  # without time and memory: a small run is too noisy
_TITLES = {
    "broken": "Broken",
    "fixed": "Fixed",
    "changed": "Otherwise changed",
    "removed": "Removed",
    "new": "New",
    "slower": "Slower",
    "larger": "Larger",
}
WORSE = ("broken", "slower", "larger")
"""The lists of what became worse."""


@dataclass(frozen=True)
class ListedChange:
    """One line of a list: the checks of a model that changed alike, or a model that takes more time or memory.

    Attributes:
        checks: names of the checks; empty for time and memory.
        version: the version under which the model ran, if a journal covers several.
        before, after: an outcome, `none`, or an amount.
        message: what the later result says; empty if it passed.
        repro: the command that repeats the first of the checks.
    """

    zoo: str
    model: str
    checks: tuple[str, ...]
    version: str
    before: str
    after: str
    message: str
    repro: str

    @property
    def count(self) -> int:
        """Return the number of results on this line, or 1 for a model."""
        return len(self.checks) or 1

    def __str__(self) -> str:
        """Return the id of the test, of several tests, or of the model."""
        checks = f"::{join_first(self.checks, 8)}" if self.checks else ""
        return f"{self.zoo}::{self.model}{checks}" + (f" ({self.version})" if self.version else "")


@dataclass(frozen=True)
class ChangeList:
    """All changes of one kind, the worst first."""

    name: str
    title: str
    count: int
    lines: tuple[ListedChange, ...]

    def count_after(self, listed: int) -> int:
        """Return the number of results on the lines after the first `listed` ones."""
        return sum(line.count for line in self.lines[listed:])


def change_lists(comparison: Comparison, *, comment: bool = False) -> list[ChangeList]:
    """Return the lists that are not empty; for a comment, only those of what broke, was fixed or changed."""
    lists = []
    for name, title in _TITLES.items():
        found = getattr(comparison, name)
        changes = [item for item in found if isinstance(item, Change)]
        costs = [_listed_cost(item) for item in found if isinstance(item, CostIncrease)]
        lists.append(ChangeList(name, title, len(found), (*_listed_changes(changes), *costs)))
    return [changes for changes in lists if changes.count and (not comment or changes.name in _IN_COMMENT)]


def headline(comparison: Comparison, *, comment: bool = False) -> str:
    """Return the counts in one line."""
    numbers = [pluralize(comparison.shared, "shared result")]
    numbers += [f"{comparison.added:,} new"] if comparison.added else []
    numbers += [f"{comparison.taken_over:,} taken over"] if comparison.taken_over else []
    lists = change_lists(comparison, comment=comment)
    parts = [f"{changes.count:,} {changes.title.lower()}" for changes in lists if changes.name != "new"]
    return f"{', '.join(numbers)}: {', '.join(parts) or 'nothing changed'}"


def statements(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Yield what to know before reading the lists, each with a title: empty for the speed of the machine."""
    if comparison.sample:
        yield f"A sample ({comparison.sample})", "other models are not compared"
    if comparison.missing:
        yield "Incomplete", "; ".join(comparison.missing)
    if comparison.differences:
        yield "Other versions or options", "; ".join(comparison.differences)
    if comparison.speed_ratio is not None:
        yield "", f"The second run took {comparison.speed_ratio:.2f} times as long for the median model."


def format_comment(comparison: Comparison) -> str:
    """Return only what is broken, fixed or changed, within the size limit of a comment on GitHub."""
    parts = [f"**Head swaps**: {escaped(headline(comparison, comment=True), 600)}\n"]
    if comparison.persistent:
        parts.append(f"Needing attention in both runs: {pluralize(comparison.persistent, 'result')}.\n")
    parts += [text for title, text in _caveats(comparison) if title]
    parts += _tables(change_lists(comparison, comment=True), 20, 200)
    parts.append(_commands(change_lists(comparison, comment=True), 20))
    return join_within_limit(parts, _MAX_COMMENT)


def format_markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown, within the size limit of a CI step summary, the worst changes first."""
    lists = change_lists(comparison)
    parts = [f"## Head swaps compared\n\n{escaped(headline(comparison), 600)}\n"]
    parts += [text for _, text in _caveats(comparison)]
    parts += [*_tables(lists, _MAX_LISTED, 400), _commands(lists, _MAX_LISTED)]
    return join_within_limit(parts, MAX_BYTES)


def _caveats(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for title, text in statements(comparison):
        yield title, f"**{escaped(title, 120)}**: {escaped(text, 600)}\n" if title else f"{text}\n"


def _tables(lists: Iterable[ChangeList], max_listed: int, max_chars: int) -> Iterator[str]:
    for changes in lists:
        rows = ([escaped(cell, max_chars) for cell in _cells(line)] for line in changes.lines[:max_listed])
        listed = table(["test", "before", "after"], rows) + list_more(changes.count_after(max_listed))
        yield f"### {changes.title}: {changes.count:,}\n\n{listed}"


def _commands(lists: Iterable[ChangeList], max_listed: int) -> str:
    """Return the commands that repeat what became worse."""
    commands = [line.repro for changes in lists if changes.name in WORSE for line in changes.lines]
    unique = [escape_unprintable(command) for command in dict.fromkeys(commands) if command]
    return folded_commands(unique[:max_listed])


def _cells(line: ListedChange) -> list[str]:
    return [str(line), line.before, f"{line.after}: {line.message}" if line.message else line.after]


def _listed_changes(changes: Iterable[Change]) -> Iterator[ListedChange]:
    """Yield a line for the results of a model that changed alike, such as those of a model that cannot be built."""
    grouped: dict[tuple[str, ...], list[Change]] = {}
    for change in changes:
        result = change.result
        states = [_outcome(change.old), _outcome(change.new), _message(change.new)]
        grouped.setdefault((result.zoo, result.model, result.version, *states), []).append(change)
    for (zoo, model, version, before, after, message), group in grouped.items():
        first = group[0]
        yield ListedChange(
            *(zoo, model, tuple(change.result.check for change in group), version, before, after, message),
            first.result.repro,
        )


def _outcome(result: Result | None) -> str:
    return result.outcome if result is not None else "none"


def _message(result: Result | None) -> str:
    return result.full_message if result is not None and result.outcome != "passed" else ""


def _listed_cost(item: CostIncrease) -> ListedChange:
    amount: Callable[[float], str] = format_duration if item.unit == "s" else lambda value: f"{value:,.0f} MB"
    after = f"{amount(item.new)} ({item.factor:.1f} times)"
    return ListedChange(item.zoo, item.model, (), "", amount(item.old), after, "", item.repro)
