"""Show the history of several runs as a page: a chart and a table for each zoo, and the checks that were bad."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_headswap._text import file_name, format_duration, pluralize
from pytest_headswap.report.history import MAX_RUNS_SHOWN, bad_lists, coverage, headline, when
from pytest_headswap.report.single_page import report_link, write_single_page
from pytest_headswap.results.history import History, PastBad, ZooSummary

_MAX_LISTED = 500
_HEIGHT, _WIDTH, _GAP = 40, 14, 3


@dataclass(frozen=True)
class Bar:
    """One run in a chart.

    Attributes:
        x, y, height: place and height in pixels.
        title: the run and its value, in words.
        whole: whether the run covers its zoo; other bars are drawn as outlines.
    """

    x: int
    y: float
    height: float
    title: str
    whole: bool


@dataclass(frozen=True)
class Sparkline:
    """A chart with a bar for each run that covers a zoo."""

    title: str
    latest: str
    bars: tuple[Bar, ...]
    width: int
    height: int
    alt_text: str


def write_history_page(history: History, path: Path) -> None:
    """Write the page.

    Raises:
        JournalError: the page cannot be written.
    """

    def link(line: PastBad) -> str:
        last = max(index for index, state in enumerate(line.states) if state is not None)
        return report_link(path, history.runs[last].folder, file_name(line.zoo, line.model))

    context = {
        "history": history,
        "headline": headline(history),
        "sparklines": {zoo: list(_sparklines(history, zoo)) for zoo in history.zoos},
        "lists": bad_lists(history),
        "reports": [report_link(path, run.folder) for run in history.runs],
        "link": link,
        "coverage": coverage,
        "when": when,
        "max_listed": _MAX_LISTED,
        "max_runs": MAX_RUNS_SHOWN,
    }
    write_single_page(path, "history.html.j2", context)


def _sparklines(history: History, zoo: str) -> Iterator[Sparkline]:
    yield _sparkline(history, zoo, "Bad results", lambda item: item.bad, lambda value: f"{value:,.0f}")
    yield _sparkline(
        history,
        zoo,
        "Time per architecture",
        lambda item: item.seconds / (item.architectures or 1),
        format_duration,
    )


def _sparkline(
    history: History, zoo: str, title: str, value: Callable[[ZooSummary], float], text: Callable[[float], str]
) -> Sparkline:
    values = {index: value(run.zoos[zoo]) for index, run in enumerate(history.runs) if zoo in run.zoos}
    largest = max(values.values()) or 1
    bars = []
    for index, amount in values.items():
        height = round(max(amount / largest * _HEIGHT, 1), 1)
        run = history.runs[index]
        whole = "" if run.is_whole else ", not of the whole zoo"
        place = index * (_WIDTH + _GAP)
        bars.append(Bar(place, _HEIGHT - height, height, f"run {index + 1}: {text(amount)}{whole}", run.is_whole))
    listed = ", ".join(bar.title for bar in bars[-MAX_RUNS_SHOWN:])
    return Sparkline(
        title,
        text(list(values.values())[-1]),
        tuple(bars),
        len(history.runs) * (_WIDTH + _GAP),
        _HEIGHT,
        f"{title} of {pluralize(len(bars), 'run')}: {listed}",
    )
