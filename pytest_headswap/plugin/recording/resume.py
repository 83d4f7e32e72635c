"""Resume an interrupted run from its journal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from pytest_headswap._text import join_first
from pytest_headswap.expectations.outcomes import reapply
from pytest_headswap.plugin.recording.header import journal_header
from pytest_headswap.plugin.settings import CARRIED_OVER, Settings
from pytest_headswap.results import JOURNAL_NAME, JournalError, JournalHeader, Result, changed_code, read_journal

RERUN_OUTCOMES = ("crashed", "timeout")
"""Outcomes whose checks are rerun: the machine may have caused them, and the next run may succeed."""


_MAX_LISTED = 20
_MODEL_NAME_OPTIONS = ("part", "selection")  # options that hold model names


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
        self.changed_code: dict[str, list[str]] = {}
        if path.exists():
            try:
                header, results = read_journal(settings.report)
            except JournalError as error:
                raise pytest.UsageError(f"--headswap-resume: {error}") from error
            now = journal_header(settings)
            self.changed_code = {zoo: names for zoo in now.code if (names := changed_code(header, now, zoo))}
            if differences := list(_differences(header, now)):
                raise pytest.UsageError(
                    f"--headswap-resume: the journal {path} belongs to another run: {'; '.join(differences)}. "
                    "Use the same options, choose another --headswap-report, or omit --headswap-resume to start over"
                )
        selected = {str(test) for zoo, names in settings.this_shard for test in settings.tests_of(zoo.name, names)}
        latest = {result.nodeid: result for result in results if result.nodeid in selected}
        adjusted = [reapply(settings.expectations, result) for result in latest.values()]
        self.carried_over = tuple(
            result
            for result in adjusted
            if result is not None and result.outcome not in RERUN_OUTCOMES and result.zoo not in self.changed_code
        )
        self.rerun_count = len(latest) - len(self.carried_over)
        self.changed = sum(result.outcome != latest[result.nodeid].outcome for result in self.carried_over)
        self.failures = tuple(result for result in self.carried_over if result.needs_attention)
        config.stash[CARRIED_OVER] = frozenset(result.nodeid for result in self.carried_over)

    def pytest_report_header(self) -> list[str]:
        """Return a line with the number of results that are kept, and one for each zoo whose code has changed."""
        return [self._kept(), *map(self._code_change, self.changed_code)]

    def _code_change(self, zoo: str) -> str:
        names = join_first(self.changed_code[zoo])
        return f"headswap: resume: {names} changed since the earlier run, so all models of {zoo} run again"

    def _kept(self) -> str:
        if not self.carried_over and not self.rerun_count:
            return "headswap: resume: there are no earlier results, so all checks run"
        changed = f", {self.changed} with another outcome under the current expectations" if self.changed else ""
        again = f"; {self.rerun_count} to rerun" if self.rerun_count else ""
        return f"headswap: resume: {len(self.carried_over):,} results kept from the earlier run{changed}{again}"

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell an xdist worker what not to run; it cannot read the journal itself, which may hold more by now."""
        node.workerinput["headswap_carried_over"] = [result.nodeid for result in self.carried_over]

    def summary(self) -> Iterator[str]:
        """Yield the number of kept results and the bad ones among them: pytest itself reports only the current run."""
        if self.carried_over:
            yield f"kept from the earlier run: {len(self.carried_over):,} results"
        for result in self.failures[:_MAX_LISTED]:
            yield f"  {result.outcome} {result.nodeid} - {result.full_message.partition(chr(10))[0]}"
        if len(self.failures) > _MAX_LISTED:
            yield f"  and {len(self.failures) - _MAX_LISTED:,} more"


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
                sentence = f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
                yield sentence if key not in _MODEL_NAME_OPTIONS else f"{key} differs"
