"""Format the history of several runs as Markdown, which also reads well in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

from pytest_headswap._text import format_duration, join_first, pluralize
from pytest_headswap.report.markdown import MAX_BYTES, escaped, join_within_limit, list_more, table
from pytest_headswap.report.matrix_data import SYMBOLS
from pytest_headswap.results.history import History, PastBad, PastRun, State
from pytest_headswap.results.result import BY_SEVERITY, OUTCOMES

MAX_RUNS_SHOWN = 30
"""The number of runs, from the last one, whose outcomes are shown for each check."""

NO_RESULT = "·"
_MAX_LISTED = 50
_MAX_ZOOS = 20
_BARS = "▁▂▃▄▅▆▇█"


def headline(history: History) -> str:
    """Return the counts in one line."""
    bad = sum(len(line.checks) for line in history.bad)
    return (
        f"{pluralize(len(history.runs), 'run')} of {join_first(history.zoos)}: {pluralize(bad, 'check')} bad now, "
        f"{sum(len(line.checks) for line in history.fixed):,} fixed"
    )


def bad_lists(history: History) -> list[tuple[str, Sequence[PastBad]]]:
    """Return the lists that are not empty, with their titles."""
    lists = [("Bad now", history.bad), ("Fixed", history.fixed)]
    return [(title, lines) for title, lines in lists if lines]


def coverage(run: PastRun) -> str:
    """Return whether a run is whole, or what it lacks or left out."""
    return "; ".join([*(f"incomplete: {text}" for text in run.incomplete), *run.limits]) or "whole"


def when(line: PastBad) -> str:
    """Return when checks broke and were fixed, by the numbers of the runs."""
    before = f"good in run {line.last_good + 1}" if line.last_good is not None else "never good before"
    text = f"first bad in run {line.first_bad + 1}, {before}"
    if line.fixed is not None:
        return f"{text}, fixed in run {line.fixed + 1}"
    last = max(index for index, state in enumerate(line.states) if state is not None)
    return text if last == len(line.states) - 1 else f"{text}, not in the runs after run {last + 1}"


def symbol(state: State | None) -> str:
    """Return one character for an outcome."""
    return SYMBOLS[state.outcome] if state is not None else NO_RESULT


def format_markdown(history: History) -> str:
    """Return the history as Markdown, within the size limit of a CI step summary."""
    parts = [f"## Head swaps over {pluralize(len(history.runs), 'run')}\n\n{escaped(headline(history), 600)}\n"]
    if not history.is_by_date:
        parts.append("The runs are in the order in which they were given, not by date.\n")
    parts.append("".join(_sparklines(history, zoo) for zoo in history.zoos[:_MAX_ZOOS]))
    parts += [_bad(title, lines) for title, lines in bad_lists(history)]
    parts.append(_key(history))
    parts += [_zoo(history, zoo) for zoo in history.zoos[:_MAX_ZOOS]]
    parts.append(list_more(len(history.zoos) - _MAX_ZOOS))
    return join_within_limit(parts, MAX_BYTES)


def _zoo(history: History, zoo: str) -> str:
    """Return the table of a zoo, with a line for each run that covers it."""
    summaries = [run.zoos.get(zoo) for run in history.runs]
    present = [outcome for outcome in OUTCOMES if any(item and item.outcomes[outcome] for item in summaries)]
    rows = []
    for index, changes in history.changes(zoo):
        run = history.runs[index]
        summary = run.zoos[zoo]
        rows.append(
            [
                *(f"{index + 1}", escaped(run.name, 120), escaped(run.header.started, 40) or "unknown"),
                f"{summary.architectures:,}",
                *(f"{summary.outcomes[outcome]:,}" for outcome in present),
                *(f"{summary.bad:,}", format_duration(summary.seconds), escaped(coverage(run), 120)),
                escaped(_sentence(changes, summary.taken_over), 300),
            ]
        )
    titles = [">run", "journal", "started", ">architectures", *(f">{outcome}" for outcome in present)]
    titles += [">bad", ">time", "covers", "versions and options that changed"]
    earlier = len(rows) - MAX_RUNS_SHOWN
    return f"### {escaped(zoo, 120)}\n\n{table(titles, rows[-MAX_RUNS_SHOWN:])}{list_more(earlier)}"


def _sparklines(history: History, zoo: str) -> str:
    summaries = [run.zoos.get(zoo) for run in history.runs]
    bad = _sparkline([item.bad if item else None for item in summaries])
    time = _sparkline([item.seconds / (item.architectures or 1) if item else None for item in summaries])
    return f"- {escaped(zoo, 120)}: bad {bad}, time per architecture {time}\n"


def _sentence(changes: Iterable[str], taken_over: int) -> str:
    taken = [f"{pluralize(taken_over, 'result')} taken over"] if taken_over else []
    return "; ".join([*changes, *taken])


def _sparkline(values: Sequence[float | None]) -> str:
    """Return a bar for each value, in proportion to the largest one; a dot where there is no value."""
    values = values[-MAX_RUNS_SHOWN:]
    largest = max((value for value in values if value is not None), default=0) or 1
    steps = len(_BARS) - 1
    return "".join(NO_RESULT if value is None else _BARS[ceil(value / largest * steps)] for value in values)


def _bad(title: str, lines: Sequence[PastBad]) -> str:
    rows = (
        [
            escaped(f"{line.zoo}::{line.model}::{join_first(line.checks, 8)}", 300),
            escaped("".join(map(symbol, line.states[-MAX_RUNS_SHOWN:])), MAX_RUNS_SHOWN),
            when(line),
            escaped(line.message, 200),
        ]
        for line in lines[:_MAX_LISTED]
    )
    listed = table(["test", "outcomes", "when", "message"], rows) + list_more(len(lines) - _MAX_LISTED)
    return f"### {title}: {sum(len(line.checks) for line in lines):,}\n\n{listed}"


def _key(history: History) -> str:
    """Return the meaning of the characters that stand for outcomes."""
    if not (history.bad or history.fixed):
        return ""
    there = {state.outcome for line in (*history.bad, *history.fixed) for state in line.states if state is not None}
    meanings = [f"{SYMBOLS[outcome]} {outcome}" for outcome in BY_SEVERITY if outcome in there]
    shown = f"the last {MAX_RUNS_SHOWN} runs" if len(history.runs) > MAX_RUNS_SHOWN else "all runs"
    return f"Outcomes are those of {shown}, the latest at the right: {', '.join(meanings)}, {NO_RESULT} no result\n"
