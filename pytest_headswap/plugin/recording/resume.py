"""Resume an interrupted run from its journal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from pytest_headswap.expectations.outcomes import judge_again
from pytest_headswap.plugin.recording.header import header_of
from pytest_headswap.plugin.settings import TAKEN, Settings
from pytest_headswap.results import JOURNAL_NAME, JournalError, JournalHeader, Result, read_journal
from pytest_headswap.results.ids import CheckId

AGAIN = ("crashed", "timeout")
"""Outcomes that are run again: the machine may have caused them, and the next run may succeed."""


_NAMED = 20
_LONG = ("part", "selection")  # options that hold model names


class Resume:
    """The results of an earlier run that this run keeps instead of running them again. Used only in the controller."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        """Read the journal of the report folder.

        Raises:
            pytest.UsageError: the journal belongs to another run, or cannot be read.
        """
        self.config = config
        path = settings.report / JOURNAL_NAME
        results: list[Result] = []
        if path.exists():
            try:
                header, results = read_journal(path)
            except JournalError as error:
                raise pytest.UsageError(f"--headswap-resume: {error}") from error
            if differences := list(_differences(header, header_of(settings))):
                raise pytest.UsageError(
                    f"--headswap-resume: the journal {path} is of another run: {'; '.join(differences)}. Give what was "
                    "given there, or another --headswap-report, or leave --headswap-resume out to begin anew"
                )
        asked = {
            str(CheckId(zoo.name, name, check.name))
            for zoo, names in settings.zoos
            for name in names
            for check in settings.checks
        }
        latest = {result.nodeid: result for result in results if result.nodeid in asked}
        judged = [judge_again(settings.expectations, result) for result in latest.values()]
        self.taken = tuple(result for result in judged if result is not None and result.outcome not in AGAIN)
        self.again = len(latest) - len(self.taken)
        self.changed = sum(result.outcome != latest[result.nodeid].outcome for result in self.taken)
        self.failures = tuple(result for result in self.taken if result.bad)
        config.stash[TAKEN] = frozenset(result.nodeid for result in self.taken)

    def pytest_report_header(self) -> str:
        """Return a line with the number of results that are kept."""
        if not self.taken and not self.again:
            return "headswap: resume: there is nothing to go on from, so everything is run"
        changed = f", {self.changed} with another outcome by the file of expectations" if self.changed else ""
        again = f"; {self.again} are run again" if self.again else ""
        return f"headswap: resume: {len(self.taken):,} results are taken over{changed}{again}"

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell an xdist worker what not to run; it cannot read the journal itself, which may hold more by now."""
        node.workerinput["headswap_taken"] = [result.nodeid for result in self.taken]

    def summary(self) -> Iterator[str]:
        """Yield the number of kept results and the bad ones among them: pytest itself reports only the current run."""
        if self.taken:
            yield f"taken over from the run before: {len(self.taken):,} results"
        for result in self.failures[:_NAMED]:
            yield f"  {result.outcome} {result.nodeid} - {result.told.partition(chr(10))[0]}"
        if len(self.failures) > _NAMED:
            yield f"  and {len(self.failures) - _NAMED:,} more"


def _differences(then: JournalHeader, now: JournalHeader) -> Iterator[str]:
    now = replace(now, options=json.loads(json.dumps(now.options)))
    pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = [
        ({"Python": then.python}, {"Python": now.python}),
        (then.versions, now.versions),
        (then.options, now.options),
    ]
    for old, new in pairs:
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                told = f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
                yield told if key not in _LONG else f"{key} is not the same"
