"""Follow results over several runs: outcomes and cost of each zoo, and the first bad run of each check of a model.

Runs may cover several zoos, only some models, or other options. Nothing is filled in: a run without a result of a check
says nothing about that check.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pytest_headswap._text import truncate
from pytest_headswap.results.differences import differences
from pytest_headswap.results.journal import JOURNAL_NAME, JournalError, JournalHeader
from pytest_headswap.results.matrix import severity
from pytest_headswap.results.result import Outcome, Result
from pytest_headswap.results.run import Run, parse_start, read_run

_MESSAGE = 1000
_EARLIEST = datetime.min.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class ZooSummary:
    """The results of one zoo in one run."""

    architectures: int
    outcomes: Counter[Outcome]
    bad: int
    """The number of results that need attention."""

    seconds: float
    taken_over: int
    """The number of results that were taken over from earlier runs, with their time."""


@dataclass(frozen=True)
class PastRun:
    """A run, or one version of a journal that was merged from several.

    Attributes:
        name: the path as given, with the version if the journal has several.
        folder: the report folder.
        zoos: what the run found, by zoo; a zoo without results is in it if the run selected it.
        incomplete: sentences about results that the run should have but lacks.
        limits: what was left out on purpose.
    """

    name: str
    folder: Path
    header: JournalHeader
    zoos: Mapping[str, ZooSummary]
    incomplete: tuple[str, ...]
    limits: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Return whether nothing is missing and nothing was left out."""
        return not self.incomplete and not self.limits


@dataclass(frozen=True)
class State:
    """The outcome of a check in one run, and whether it needs attention."""

    outcome: Outcome
    bad: bool


@dataclass(frozen=True)
class PastBad:
    """Checks of a model that were bad in the same runs. Runs are given by their index.

    Attributes:
        states: the state in each run; None if the run has no result.
        first_bad: the first run of the last bad stretch.
        last_good: the last run before it with a result; None if it was never good before.
        fixed: the first good run after it; None if the checks are bad in the last run that has them.
        message: what the last bad run says.
    """

    zoo: str
    model: str
    checks: tuple[str, ...]
    states: tuple[State | None, ...]
    first_bad: int
    last_good: int | None
    fixed: int | None
    message: str


@dataclass(frozen=True)
class History:
    """Several runs, the earliest first.

    Attributes:
        bad: the checks that are bad in the last run that has them, the latest change first.
        fixed: the checks that were bad before, the latest change first.
        is_by_date: whether the runs are ordered by date, not as given.
    """

    runs: tuple[PastRun, ...]
    bad: tuple[PastBad, ...]
    fixed: tuple[PastBad, ...]
    is_by_date: bool

    @property
    def zoos(self) -> list[str]:
        """Return the names of all zoos."""
        return sorted({zoo for run in self.runs for zoo in run.zoos})

    def changes(self, zoo: str) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Yield each run of a zoo by its index, with its versions or what differs from the run of the zoo before it."""
        before: PastRun | None = None
        for index, run in enumerate(self.runs):
            if zoo in run.zoos:
                versions = (f"{name} {version}" for name, version in sorted(run.header.versions.items()))
                yield index, tuple(versions if before is None else differences(before.header, run.header))
                before = run


class _Tests:
    """Collects the state of each test in each run, in little memory."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str, str], list[State | None]] = {}
        self._messages: dict[tuple[str, str, str], str] = {}
        self._known: dict[State, State] = {}
        self._names: dict[str, str] = {}

    def add(self, index: int, results: Iterable[Result]) -> None:
        """Add the results of a run. If it has several of one test, the worst counts."""
        for result in sorted(results, key=severity, reverse=True):
            key = (
                self._names.setdefault(result.zoo, result.zoo),
                self._names.setdefault(result.model, result.model),
                self._names.setdefault(result.check, result.check),
            )
            state = State(result.outcome, result.needs_attention)
            states = self._states.setdefault(key, [])
            states += [None] * (index + 1 - len(states))
            states[index] = self._known.setdefault(state, state)
            if result.needs_attention:
                self._messages[key] = truncate(result.full_message, _MESSAGE)

    def bad(self, order: Sequence[int]) -> Iterator[PastBad]:
        """Yield a line for each set of checks that are bad in the same runs, with the runs in this order."""
        groups: dict[tuple[Any, ...], list[str]] = {}
        for key, states in self._states.items():
            if any(state is not None and state.bad for state in states):
                zoo, model, check = key
                ordered = tuple(states[index] if index < len(states) else None for index in order)
                groups.setdefault((zoo, model, ordered, self._messages[key]), []).append(check)
        for (zoo, model, ordered, message), checks in groups.items():
            yield PastBad(zoo, model, tuple(checks), ordered, *_stretch(ordered), message)


def read_history(paths: Sequence[Path], *, keep_order: bool = False) -> History:
    """Read the journals of several runs, one after the other.

    Args:
        paths: the journals or their folders.
        keep_order: keep this order. Otherwise runs are ordered by the time when they started, if all state it.

    Raises:
        JournalError: journals cannot be read, are given twice, or have no results. The message has a line for each.
    """
    tests = _Tests()
    runs: list[PastRun] = []
    problems = list(_given_twice(paths))
    for path in paths:
        try:
            run = read_run(path)
        except JournalError as error:
            problems.append(str(error))
            continue
        for past, results in _past_runs(run):
            tests.add(len(runs), results)
            runs.append(past)
    if not problems and not any(zoo.outcomes for past in runs for zoo in past.zoos.values()):
        problems.append(f"no results in {' and '.join(map(str, paths))}: there is no history")
    if problems:
        raise JournalError("\n".join(problems))
    starts = [parse_start(past.header) for past in runs]
    is_by_date = not keep_order and None not in starts
    order = sorted(range(len(runs)), key=lambda index: starts[index] or _EARLIEST) if is_by_date else range(len(runs))
    lines = sorted(tests.bad(order), key=_latest_first)
    return History(
        tuple(runs[index] for index in order),
        tuple(line for line in lines if line.fixed is None),
        tuple(line for line in lines if line.fixed is not None),
        is_by_date,
    )


def _given_twice(paths: Iterable[Path]) -> Iterator[str]:
    places = Counter(os.path.realpath(path / JOURNAL_NAME if path.is_dir() else path) for path in paths)
    yield from (f"{place} is given {times} times" for place, times in places.items() if times > 1)


def _past_runs(run: Run) -> Iterator[tuple[PastRun, list[Result]]]:
    """Yield a run, or each version of a merged journal in its order, with the results."""
    results: dict[str, list[Result]] = {}
    for result in run.results:
        results.setdefault(result.version, []).append(result)
    versions = {item["version"]: item for item in run.header.merged.get("versions", ())}
    if not versions or not results.keys() <= versions.keys():
        yield _past_run(run, str(run.path)), run.results
        return
    for version, item in versions.items():
        of_version = Run(run.path, _header_of_version(run.header, item), results.get(version, []))
        yield _past_run(of_version, f"{run.path} ({version})"), of_version.results


def _header_of_version(header: JournalHeader, item: Mapping[str, Any]) -> JournalHeader:
    """Return the header of one version. It keeps the start of the merged journal, so that versions keep their order."""
    own = {name: item[name] for name in ("versions", "options") if isinstance(item.get(name), dict)}
    missing = [text for text in header.merged.get("missing", ()) if text.startswith(f"{item['version']}: ")]
    return replace(header, **own, python=str(item.get("python", "")), merged={"missing": missing})


def _past_run(run: Run, name: str) -> PastRun:
    results: dict[str, list[Result]] = {zoo: [] for zoo in run.header.selected}
    for result in run.results:
        results.setdefault(result.zoo, []).append(result)
    zoos = {
        zoo: ZooSummary(
            architectures=len({result.model for result in of_zoo}),
            outcomes=Counter(result.outcome for result in of_zoo),
            bad=sum(result.needs_attention for result in of_zoo),
            seconds=sum(result.seconds for result in of_zoo),
            taken_over=sum(bool(result.taken_over) for result in of_zoo),
        )
        for zoo, of_zoo in results.items()
    }
    return PastRun(name, run.folder, run.header, zoos, run.missing, run.limits)


def _latest_first(line: PastBad) -> tuple[Any, ...]:
    return -(line.first_bad if line.fixed is None else line.fixed), line.zoo, line.model, line.checks


def _stretch(states: Sequence[State | None]) -> tuple[int, int | None, int | None]:
    """Return the first run of the last bad stretch, the run before it and the run after it, without empty runs."""
    there = [(index, state) for index, state in enumerate(states) if state is not None]
    end = max(place for place, (_, state) in enumerate(there) if state.bad)
    start = end
    while start > 0 and there[start - 1][1].bad:
        start -= 1
    last_good = there[start - 1][0] if start > 0 else None
    fixed = there[end + 1][0] if end + 1 < len(there) else None
    return there[start][0], last_good, fixed
