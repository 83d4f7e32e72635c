"""Summarize expectations at the end of a run: unused entries, normally skipped checks that ran, and file updates.

Only the controller uses this module. It sees results as they are written to the journal.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_headswap._text import pluralize, single_line, truncate
from pytest_headswap.expectations.entry import Entry
from pytest_headswap.expectations.expectations import OPTION, UPDATE, Expectations
from pytest_headswap.expectations.matcher import ConflictError, before_expectations, decided_by_mark
from pytest_headswap.expectations.toml_document import DocumentError
from pytest_headswap.expectations.update import RunScope, update_document
from pytest_headswap.plugin.settings import Settings
from pytest_headswap.results import Result
from pytest_headswap.results.ids import CheckId, model_id

_MAX_LINES = 50  # lines of a list
_MAX_TO_NARROW = 20  # checks to list by name under an entry
_MAX_CHARS = 200  # characters of a line


class ExpectationsSummary:
    """Collect results, and compare them with the expectations files at the end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.expectations: Expectations = settings.expectations
        self.results: list[Result] = []
        """The results with which the files are compared, before expectations are applied."""
        self.other_tests: set[CheckId] = set()
        self.ran_although_skipped: dict[tuple[str, str], list[str]] = {}
        self.unused_entries: list[Entry] = []
        self.todo_entries: list[Entry] = []
        self.to_narrow: dict[Entry, Sequence[CheckId]] = {}
        self.diff: list[str] = []
        self.problem = ""

    def pytest_report_header(self) -> str | None:
        """Return a line with the file and the number of its entries that apply here."""
        if self.expectations.files is None:
            return "headswap: models that the zoo refuses run, too" if self.expectations.run_skipped else None
        count = len(self.expectations.matcher.entries)
        note = "; checks that are normally skipped run, too" if self.expectations.run_skipped else ""
        return f"headswap: expectations: {_entries(count)} of {self.expectations.files.given_path}{note}"

    def pytest_headswap_result(self, result: Result) -> None:
        """Keep the result, if there is a file to compare with or a skip to report on."""
        if self.expectations.files is None and not self.expectations.run_skipped:
            return
        raw = before_expectations(result)
        if self.expectations.run_skipped and (why := self.expectations.normal_skip(result.check_id)[1]):
            self.other_tests.add(result.check_id)
            text, why = (truncate(single_line(item), _MAX_CHARS) for item in (_outcome(raw), why))
            key = model_id(result.zoo, result.model), f"{text} ({why})"
            self.ran_although_skipped.setdefault(key, []).append(result.check)
        elif decided_by_mark(result):
            self.other_tests.add(result.check_id)
        else:
            self.results.append(replace(raw, anatomy=None))  # the largest field, and no entry refers to it

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Find unused entries and update the files. Run after the recorder, whose last results arrive here."""
        if session.config.option.collectonly or self.expectations.files is None:
            return
        matcher = self.expectations.matcher
        complete = self._complete_zoos()
        self.unused_entries = matcher.unused_entries(self.results, complete)
        used = {entry for result in self.results for entry in matcher.entries_of(result.check_id)}
        self.todo_entries = [item.entry for item in matcher.entries if item.entry in used and item.entry.is_todo]
        if self.expectations.update:
            self._update(replace(self.expectations.scope, complete=complete))
        stale = any(not entry.may_pass for entry in self.unused_entries) and not self.expectations.update
        if (stale or self.problem) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _complete_zoos(self) -> list[str]:
        """Return the zoos that were selected as a whole and whose models on this machine all ran."""
        ran = {result.check_id for result in self.results} | self.other_tests
        complete = {zoo.name: len(names) == len(zoo.names) for zoo, names in self.settings.selected}
        return [
            zoo.name
            for zoo, names in self.settings.this_shard
            if complete[zoo.name] and ran.issuperset(self.settings.tests_of(zoo.name, names))
        ]

    def _update(self, scope: RunScope) -> None:
        store = self.expectations.files
        assert store is not None
        zoos_of: dict[Path, list[str]] = {}
        for zoo, path in store.files().items():
            zoos_of.setdefault(path, []).append(zoo)
        for path, zoos in zoos_of.items():
            of_file = replace(scope, models={zoo: scope.models[zoo] for zoo in zoos})
            results = [result for result in self.results if result.zoo in zoos]
            try:
                before, update = store.update(path, lambda document: update_document(document, of_file, results))  # noqa: B023
            except (DocumentError, ConflictError) as error:
                self.problem = f"{store.display_path(path)} was not updated: {error}"
                return
            name = str(store.display_path(path))
            after = update.document.text
            self.diff += difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="")
            self.to_narrow |= update.to_narrow

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the summary in its own section, if there is anything to print."""
        lines = list(self._lines())
        if not lines:
            return
        terminalreporter.section("headswap expectations", sep="=")
        for line in lines:
            terminalreporter.write_line(line)

    def _lines(self) -> Iterator[str]:
        store = self.expectations.files
        if self.ran_although_skipped:
            total = sum(map(len, self.ran_although_skipped.values()))
            yield f"run although normally skipped: {pluralize(total, 'result')}; none can fail the run:"
            yield from _indent(
                [
                    f"{model}, {', '.join(sorted(checks))}: {text}"
                    for (model, text), checks in sorted(self.ran_although_skipped.items())
                ]
            )
        strict = [entry for entry in self.unused_entries if not entry.may_pass]
        if strict and store is not None:
            count = _entries(len(strict), "unused ")
            if self.expectations.update and not self.problem:
                yield f"deleted {count}:"
            else:
                yield f"FAILED: {count}. Delete what is listed, or rerun with {UPDATE}:"
            yield from _indent([_describe(entry) for entry in strict])
        if idle := [entry for entry in self.unused_entries if entry.may_pass]:
            yield f"{_entries(len(idle), 'unused ')} with may_pass:"
            yield from _indent([_describe(entry) for entry in idle])
        if ended := [item.entry for item in self.expectations.matcher.ended]:
            yield f"ENDED: {_entries(len(ended))} no longer applied. Delete what is fixed, or set a later end:"
            yield from _indent([f"{_describe(entry)}; ended {entry.until}" for entry in ended])
        if self.todo_entries:
            yield f"TODO: {_entries(len(self.todo_entries))} without a reason yet:"
            yield from _indent([_describe(entry) for entry in self.todo_entries])
        if self.problem:
            yield f"FAILED: {self.problem}"
        elif self.expectations.update and store is not None:
            yield f"{OPTION}={store.given_path}: {'updated' if self.diff else 'nothing to update'}"
            yield from self.diff
        if self.to_narrow:
            yield f"{_entries(len(self.to_narrow))} to narrow by hand. Exclude what no longer fits:"
            yield from _indent([line for item in self.to_narrow.items() for line in _narrowing(*item)])


def _outcome(result: Result) -> str:
    return f"{result.outcome}: {result.message}" if result.message else result.outcome


def _entries(count: int, kind: str = "") -> str:
    return pluralize(count, f"{kind}entry", f"{kind}entries")


def _describe(entry: Entry) -> str:
    text = f"{entry.where}: models {', '.join(entry.models)}; checks {', '.join(entry.checks)}; {entry.describe()}"
    return truncate(single_line(text), _MAX_CHARS)


def _narrowing(entry: Entry, tests: Sequence[CheckId]) -> Iterator[str]:
    names = [f"{test.model}::{test.check}" for test in tests[:_MAX_TO_NARROW]]
    more = f" and {len(tests) - _MAX_TO_NARROW} more" if len(tests) > _MAX_TO_NARROW else ""
    yield _describe(entry)
    yield f"  no longer fits {', '.join(names)}{more}"


def _indent(lines: list[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:_MAX_LINES])
    if len(lines) > _MAX_LINES:
        yield f"  and {len(lines) - _MAX_LINES} more"
