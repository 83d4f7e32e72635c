"""Take over the results of an earlier journal where nothing has changed that they rest on (`--headswap-since`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_headswap._text import join_first, pluralize, single_line, truncate
from pytest_headswap.expectations.matcher import before_expectations, decided_by_mark
from pytest_headswap.expectations.outcomes import reapply
from pytest_headswap.harness.build_result import junit_properties
from pytest_headswap.plugin.collection.replay import TAKEN_OVER, Replay
from pytest_headswap.plugin.recording.header import journal_header
from pytest_headswap.plugin.recording.keys import INCOMPLETE, Keys
from pytest_headswap.plugin.settings import Settings
from pytest_headswap.results import JournalError, Result, changed_code, read_journal
from pytest_headswap.results.differences import differences
from pytest_headswap.results.ids import CheckId, model_id
from pytest_headswap.zoo.source_files import digest

OPTION = "--headswap-since"
_MAX_LISTED = 20
_MAX_CHARS = 200

NEW = "new"
CHANGED = "changed"
UNKNOWN = "unknown"
FAILED = "failed, flaky or not comparable"


class Since:
    """The results of an earlier run that this run takes over. Used only in the controller.

    Attributes:
        taken: the results by id, with the expectations of this run applied.
        verified: the earlier results of the tests that run to verify them, by id.
    """

    def __init__(
        self, config: pytest.Config, settings: Settings, keys: Keys, path: Path, verify: float, kept: frozenset[str]
    ) -> None:
        """Read a journal.

        Args:
            config: the configuration of the controller.
            settings: the settings of this run.
            keys: the keys of this run.
            path: the journal or its folder.
            verify: the percentage of models to verify.
            kept: the ids of results that `--headswap-resume` keeps.

        Raises:
            pytest.UsageError: the journal cannot be read, or holds several versions.
        """
        self.settings, self.keys, self.path, self.verify = settings, keys, path, verify
        try:
            self.header, results = read_journal(path)
        except JournalError as error:
            raise pytest.UsageError(f"{OPTION}: {error}. Without {OPTION}, everything runs") from error
        if "versions" in self.header.merged:
            raise pytest.UsageError(f"{OPTION}: {path} was merged from several versions: give the journal of one")
        self.now = journal_header(settings, keys)
        self.again: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.changed_models: set[tuple[str, str]] = set()
        self.differences: list[str] = []
        self._previous_failures = _previous_failures(config)
        tests = [test for zoo, names in settings.this_shard for test in settings.tests_of(zoo.name, names)]
        self.taken = self._take(results, [test for test in tests if str(test) not in kept])
        self.verified = self._sample() if verify else {}
        self.taken = {nodeid: result for nodeid, result in self.taken.items() if nodeid not in self.verified}
        config.stash[TAKEN_OVER] = {nodeid: _replay(result) for nodeid, result in self.taken.items()}

    def _take(self, results: list[Result], tests: list[CheckId]) -> dict[str, Result]:
        latest = {result.check_id: result for result in results}
        anatomies = {(result.zoo, result.model): result.anatomy for result in results if result.anatomy is not None}
        taken = {}
        for test in tests:
            earlier = latest.get(test)
            result = self._take_one(test, earlier)
            if isinstance(result, str):
                self.again[result] += 1
            elif earlier is not None:
                anatomy = anatomies.get((test.zoo, test.model))  # the journal has it once, perhaps at another check
                ran = earlier.taken_over or self.header.started
                taken[str(test)] = replace(result, anatomy=anatomy, taken_over=ran, nodeid=str(test))
        return taken

    def _take_one(self, test: CheckId, earlier: Result | None) -> Result | str:
        """Return the result to take over, or why the test runs again."""
        key = self.keys.key(test)
        if key.startswith(INCOMPLETE):
            self.unknown[self.keys.unknown(test)] += 1
            return UNKNOWN
        if earlier is None:
            return NEW
        no_evidence = not earlier.key or earlier.key.startswith(INCOMPLETE) or decided_by_mark(earlier)
        if no_evidence or str(test) in self._previous_failures:
            return FAILED
        if earlier.key != key:
            self.changed_models.add((test.zoo, test.model))
            return CHANGED
        raw = before_expectations(earlier)
        result = reapply(self.settings.expectations, earlier)
        allowed = "passed", "skipped", *(("failed", "error") if result and result.outcome == "xfailed" else ())
        if result is None or raw.outcome not in allowed or result.needs_attention or self._is_flaky(test):
            return FAILED
        return result

    def _is_flaky(self, test: CheckId) -> bool:
        return any(entry.may_pass for entry in self.settings.expectations.matcher.entries_of(test))

    def _sample(self) -> dict[str, Result]:
        """Return the results of a stable part of the models: the same part for the same journal."""
        models = {model_id(result.zoo, result.model) for result in self.taken.values()}
        order = sorted(models, key=lambda name: digest(f"{self.header.started} {name}".encode()))
        chosen = set(order[: math.ceil(len(order) * self.verify / 100)])
        return {nodeid: result for nodeid, result in self.taken.items() if model_id(result.zoo, result.model) in chosen}

    def pytest_report_header(self) -> list[str]:
        """Return a line with the number of results that are taken over, and what runs and why."""
        total = len(self.taken) + len(self.verified) + self.again.total()
        parts = [f"{self.again[why]:,} {why}" for why in (NEW, CHANGED, FAILED, UNKNOWN) if self.again[why]]
        parts += [f"{len(self.verified):,} to verify"] if self.verified else []
        runs = f"; {self.again.total() + len(self.verified):,} run: {', '.join(parts)}" if parts else ""
        lines = [f"since {self.header.started}: {len(self.taken):,} of {total:,} results taken over{runs}"]
        if what := self._changes():
            lines.append(f"since: changed: {join_first(what)}")
        lines += [f"since: {count:,} unknown: {why}" for why, count in self.unknown.most_common(_MAX_LISTED)]
        return [f"headswap: {truncate(single_line(line), 2 * _MAX_CHARS)}" for line in lines]

    def _changes(self) -> list[str]:
        """Return what has changed, for the models of which something has changed."""
        if not self.changed_models:
            return []
        zoos = dict.fromkeys(zoo for zoo, _ in self.changed_models)
        parts = {
            zoo: {name for z, model in self.changed_models if z == zoo for name in self.keys.parts(zoo, model)}
            for zoo in zoos
        }
        files = [name for zoo in zoos for name in changed_code(self.header, self.now, zoo) if name in parts[zoo]]
        return list(dict.fromkeys([*differences(self.header, self.now), *files])) or ["entries of the zoo"]

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell an xdist worker what not to run."""
        node.workerinput["headswap_taken_over"] = {
            nodeid: list(_replay(result)) for nodeid, result in self.taken.items()
        }

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, Any] | None:
        """Show results that are taken over with a letter of their own. They count as what they are."""
        if report.when == "call" and report.nodeid in self.taken and report.passed:
            return "passed", "t", ("TAKEN OVER", {"green": True})
        return None

    def result_of(self, report: pytest.TestReport) -> Result | None:
        """Add the result that is taken over to a report of its test, and return it once: with the last report."""
        result = self.taken[report.nodeid]
        report.user_properties = list(junit_properties(result).items())
        return result if report.when == "teardown" else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_headswap_result(self, result: Result) -> None:
        """Compare a result with that of the earlier run, if it is to be verified."""
        earlier = self.verified.get(result.nodeid)
        if earlier is None:
            return
        old, new = before_expectations(earlier), before_expectations(result)
        for what in ("outcome", "reason", "heads"):
            was, now = getattr(old, what), getattr(new, what)
            if was != now:
                self.differences.append(f"{result.nodeid}: {what} was {was!r} on {earlier.taken_over} and is {now!r}")
                return

    def summary(self) -> Iterator[str]:
        """Yield the number of results that were taken over, and from when."""
        if self.taken:
            dates = sorted({result.taken_over for result in self.taken.values()})
            when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
            yield f"taken over from earlier runs: {pluralize(len(self.taken), 'result')} ({when})"
        if self.verified and not self.differences:
            yield f"verified: {pluralize(len(self.verified), 'earlier result')}, without a difference"

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run if an earlier result no longer holds."""
        if self.differences and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the differences that were found."""
        for line in self._problems():
            terminalreporter.write_line(line, red=True, bold=True)

    def _problems(self) -> Iterator[str]:
        if self.differences:
            yield (
                f"FAILED: {OPTION}-verify: {pluralize(len(self.differences), 'result')} of the earlier run no longer "
                f"holds, although nothing has changed that is compared. Run everything without {OPTION}:"
            )
        yield from (f"  {truncate(single_line(line), _MAX_CHARS)}" for line in self.differences[:_MAX_LISTED])
        if len(self.differences) > _MAX_LISTED:
            yield f"  and {len(self.differences) - _MAX_LISTED:,} more"


def _replay(result: Result) -> Replay:
    return Replay(result.outcome, result.expectation if result.outcome == "xfailed" else result.message)


def _previous_failures(config: pytest.Config) -> frozenset[str]:
    """Return the ids that failed in the last run here, if the user asks to run these."""
    option = config.option
    cache = getattr(config, "cache", None)
    if cache is None or not (getattr(option, "lf", False) or getattr(option, "failedfirst", False)):
        return frozenset()
    return frozenset(cache.get("cache/lastfailed", {}))
