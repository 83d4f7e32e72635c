"""Summarize expectations at the end of a run: unused entries, the findings of an audit, and updates of the files.

Used only in the controller. It sees results as they are written to the journal.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_headswap.expectations.entry import Entry
from pytest_headswap.expectations.expectations import OPTION, UPDATE, Expectations
from pytest_headswap.expectations.judge import ConflictError, Seen, seen_of
from pytest_headswap.expectations.toml_document import DocumentError
from pytest_headswap.expectations.update import Scope, merge
from pytest_headswap.plugin.settings import Settings
from pytest_headswap.results import Result
from pytest_headswap.results.ids import CheckId, model_id

_MOST = 50  # lines of a list
_FEW = 3  # checks to list by name
_LONGEST = 200  # characters of a line


class Ending:
    """Collects results, and compares them with the expectations files at the end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.expectations: Expectations = settings.expectations
        self.seen: list[Seen] = []
        self.others: set[CheckId] = set()
        self.audited: dict[tuple[str, str, str], list[str]] = {}
        self.unneeded: list[Entry] = []
        self.todo: list[Entry] = []
        self.difference: list[str] = []
        self.problem = ""

    def pytest_report_header(self) -> str | None:
        """Return a line with the file and the number of its entries that apply here."""
        if self.expectations.store is None:
            return "headswap: audit: models that the zoo refuses are run too" if self.expectations.audit else None
        count = len(self.expectations.judge.covered)
        audit = "; audit: checks that are normally skipped are run too" if self.expectations.audit else ""
        return f"headswap: expectations: {_entries(count)} of {self.expectations.store.typed}{audit}"

    def pytest_headswap_result(self, result: Result) -> None:
        """Keep what is needed to judge the files, if there are any."""
        if self.expectations.store is None and not self.expectations.audit:
            return
        test = CheckId(result.zoo, result.model, result.check)
        if why := self.expectations.audited(test):
            self.others.add(test)
            found = result.found or result.outcome
            told = (model_id(*test[:2]), f"{found}: {result.message}" if result.message else found, why)
            self.audited.setdefault(told, []).append(test.check)
            return
        seen = seen_of(result)
        if seen is None:
            self.others.add(test)
        else:
            self.seen.append(seen)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judge the entries and update the files. Runs after the recorder, whose last results arrive here."""
        if session.config.option.collectonly or self.expectations.store is None:
            return
        judge = self.expectations.judge
        whole = self._whole()
        self.unneeded = judge.unneeded(self.seen, whole)
        used = {entry for item in self.seen for entry in judge.entries(item.test)}
        self.todo = [item.entry for item in judge.covered if item.entry in used and item.entry.is_todo]
        if self.expectations.update:
            self._update(replace(self.expectations.scope, whole=whole))
        stale = any(not entry.may_pass for entry in self.unneeded) and not self.expectations.update
        if (stale or self.problem) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _whole(self) -> list[str]:
        """Return the zoos that were selected as a whole and whose models on this machine all ran."""
        ran = {item.test for item in self.seen} | self.others
        whole = {zoo.name: len(names) == len(zoo.names) for zoo, names in self.settings.whole}
        return [
            zoo.name
            for zoo, names in self.settings.zoos
            if whole[zoo.name]
            and ran.issuperset(CheckId(zoo.name, name, check.name) for name in names for check in self.settings.checks)
        ]

    def _update(self, scope: Scope) -> None:
        store = self.expectations.store
        assert store is not None
        zoos_of: dict[Path, list[str]] = {}
        for zoo, path in store.files().items():
            zoos_of.setdefault(path, []).append(zoo)
        for path, zoos in zoos_of.items():
            of_file = replace(scope, models={zoo: scope.models[zoo] for zoo in zoos})
            seen = [item for item in self.seen if item.test.zoo in zoos]
            try:
                before, after = store.update(path, lambda document: merge(document, of_file, seen))  # noqa: B023
            except (DocumentError, ConflictError) as error:
                self.problem = f"{store.shown(path)} was not updated: {error}"
                return
            name = str(store.shown(path))
            self.difference += difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the summary in its own section, if there is anything to print."""
        lines = list(self._lines())
        if not lines:
            return
        terminalreporter.section("headswap expectations", sep="=")
        for line in lines:
            terminalreporter.write_line(line)

    def _lines(self) -> Iterator[str]:
        store = self.expectations.store
        if self.audited:
            count = sum(map(len, self.audited.values()))
            yield f"audit: {count} results of checks that are normally skipped; they cannot fail the run:"
            yield from _listed([_audited(*told, checks) for told, checks in sorted(self.audited.items())])
        strict = [entry for entry in self.unneeded if not entry.may_pass]
        if strict and store is not None:
            fix = "They were removed" if self.expectations.update else f"Remove them, or rerun with {UPDATE}"
            yield f"FAILED: {_entries(len(strict), 'unused ')}. {fix}:"
            yield from _listed([_named(entry) for entry in strict])
        if idle := [entry for entry in self.unneeded if entry.may_pass]:
            yield f"{_entries(len(idle), 'unused ')} with may_pass:"
            yield from _listed([_named(entry) for entry in idle])
        if self.todo:
            yield f"TODO: {_entries(len(self.todo))} without a reason yet:"
            yield from _listed([_named(entry) for entry in self.todo])
        if self.problem:
            yield f"FAILED: {self.problem}"
        elif self.expectations.update and store is not None:
            yield f"{OPTION}={store.typed}: {'updated' if self.difference else 'nothing to update'}"
            yield from self.difference


def _audited(model: str, found: str, why: str, checks: list[str]) -> str:
    where = ", ".join(sorted(checks)) if len(checks) <= _FEW else f"{len(checks)} checks"
    return f"{model}, {where}: {_short(found)} ({_short(why)})"


def _entries(count: int, kind: str = "") -> str:
    return f"{count} {kind}{'entry' if count == 1 else 'entries'}"


def _named(entry: Entry) -> str:
    return _short(f"{entry.where}: models {', '.join(entry.models)}; checks {', '.join(entry.checks)}; {entry.told()}")


def _listed(lines: list[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:_MOST])
    if len(lines) > _MOST:
        yield f"  and {len(lines) - _MOST} more"


def _short(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
