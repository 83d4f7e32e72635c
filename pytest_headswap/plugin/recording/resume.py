"""Resume an interrupted run from its journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_headswap._text import join_first, pluralize
from pytest_headswap.expectations.outcomes import reapply
from pytest_headswap.plugin.recording.header import journal_header
from pytest_headswap.plugin.recording.keys import Keys
from pytest_headswap.plugin.settings import CARRIED_OVER, Settings
from pytest_headswap.results import JOURNAL_NAME, JournalError, Result, changed_code, read_journal
from pytest_headswap.results.differences import differences

RERUN_OUTCOMES = ("crashed", "timeout")
"""Outcomes whose checks are rerun: the machine may have caused them, and the next run may succeed."""


_MAX_LISTED = 20


class Resume:
    """The results of an earlier run that this run keeps instead of running them again. Used only in the controller."""

    def __init__(self, config: pytest.Config, settings: Settings, keys: Keys) -> None:
        """Read the journal of the report folder.

        Raises:
            pytest.UsageError: the journal belongs to another run, or cannot be read.
        """
        self.config = config
        path = settings.report / JOURNAL_NAME
        results: list[Result] = []
        changed_names: dict[str, list[str]] = {}
        if path.exists():
            try:
                header, results = read_journal(settings.report)
            except JournalError as error:
                raise pytest.UsageError(f"--headswap-resume: {error}") from error
            now = journal_header(settings, keys)
            changed_names = {zoo: changed_code(header, now, zoo) for zoo in now.code}
            if different := list(differences(header, now)):
                raise pytest.UsageError(
                    f"--headswap-resume: the journal {path} belongs to another run: {'; '.join(different)}. "
                    "Use the same options, choose another --headswap-report, or omit --headswap-resume to start over"
                )
        selected = {str(test) for zoo, names in settings.this_shard for test in settings.tests_of(zoo.name, names)}
        latest = {result.nodeid: result for result in results if result.nodeid in selected}
        valid = [result for result in latest.values() if keys.still_holds(result)]
        adjusted = [reapply(settings.expectations, result) for result in valid]
        self.carried_over = tuple(
            result for result in adjusted if result is not None and result.outcome not in RERUN_OUTCOMES
        )
        models = {(result.zoo, result.model) for result in latest.values()}
        models -= {(result.zoo, result.model) for result in valid}
        self.changed_models = Counter(zoo for zoo, _ in models)
        self.changed_names = {zoo: names or ["what they rest on"] for zoo, names in changed_names.items()}
        self.rerun_count = len(latest) - len(self.carried_over)
        self.changed = sum(result.outcome != latest[result.nodeid].outcome for result in self.carried_over)
        self.failures = tuple(result for result in self.carried_over if result.needs_attention)
        config.stash[CARRIED_OVER] = frozenset(result.nodeid for result in self.carried_over)

    def pytest_report_header(self) -> list[str]:
        """Return a line with the number of results that are kept, and one for each zoo whose code has changed."""
        return [self._kept(), *map(self._code_change, self.changed_models)]

    def _code_change(self, zoo: str) -> str:
        names, count = join_first(self.changed_names[zoo]), pluralize(self.changed_models[zoo], "model")
        return f"headswap: resume: {names} changed since the earlier run, so {count} of {zoo} run again"

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
