"""Run the models of a pool in the order in which their results arrive."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.plugin.collection.nodes import CheckItem
from pytest_headswap.plugin.collection.replay import TAKEN_OVER
from pytest_headswap.plugin.planning.costs import model_seconds
from pytest_headswap.results.ids import model_id

if TYPE_CHECKING:
    from pytest_headswap.isolation.model_calls import ModelKey
    from pytest_headswap.isolation.pool_executor import PoolExecutor
    from pytest_headswap.plugin.collection.session import ZooSession
    from pytest_headswap.plugin.settings import Settings

_Groups = dict["ModelKey", list[CheckItem]]
"""The checks of each model, in running order."""


class CompletionOrder:
    """A run loop that reports the models of a pool as they are done. pytest's own loop would wait for each in turn."""

    def __init__(self, settings: Settings, zoos: ZooSession) -> None:
        self._settings = settings
        self._zoos = zoos
        self._executor: PoolExecutor | None = None
        self._groups: _Groups = {}
        self._not_run: list[ModelKey] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Have the pool begin, while pytest prepares the report."""
        from pytest_headswap.isolation.pool_executor import PoolExecutor

        option = session.config.option
        groups = _by_model(session.items)
        if not groups or option.collectonly or (session.testsfailed and not option.continue_on_collection_errors):
            return  # pytest's own loop does the right thing
        executor = self._zoos.executor()
        if isinstance(executor, PoolExecutor):  # models run in this process under a debugger
            self._executor, self._groups = executor, groups
            self._not_run = self._submit(executor)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run the other tests of the session while the pool checks the models."""
        executor, groups = self._executor, self._groups
        if executor is None:
            return None
        reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"headswap: {executor.pool}")
        others = [item for item in session.items if not isinstance(item, CheckItem)]
        first = next(iter(groups.values()))[0]
        for item, following in zip(others, [*others[1:], first], strict=bool(others)):
            _run(session, item, following)
            executor.pool.poll()
        _run_models(session, groups, self._not_run)
        _run_models(session, groups, executor.completed())
        return True

    def _submit(self, executor: PoolExecutor) -> list[ModelKey]:
        """Submit the models, the longest first. Return those of which no check is to be run, or only taken over."""
        seconds = model_seconds(self._settings)
        expectations = self._settings.expectations
        not_run = []
        for key in sorted(self._groups, key=lambda key: -seconds[model_id(*key)]):
            checks = [
                item.check.name
                for item in self._groups[key]
                if (expectations.run_skipped or expectations.not_run_entry(item.check_id) is None)
                and item.nodeid not in item.config.stash.get(TAKEN_OVER, {})
            ]
            if checks:
                executor.submit(*key, checks)
            else:
                not_run.append(key)
        return not_run

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add the time that the pool took."""
        report = yield
        if isinstance(item, CheckItem) and self._executor is not None:
            report.duration += self._executor.take_seconds()
        return report


def _by_model(items: Iterable[pytest.Item]) -> _Groups:
    groups: _Groups = {}
    for item in items:
        if isinstance(item, CheckItem):
            groups.setdefault((item.check_id.zoo, item.check_id.model), []).append(item)
    return groups


def _run_models(session: pytest.Session, groups: _Groups, order: Iterable[ModelKey]) -> None:
    """Run the checks of models, and remove these from the groups."""
    for key in order:
        items = groups.pop(key)
        for item, following in zip(items, [*items[1:], _following(groups, key)], strict=True):
            _run(session, item, following)


def _following(groups: _Groups, key: ModelKey) -> CheckItem | None:
    """Return a check that may follow those of a model: pytest then tears down what the two do not share.

    Nobody knows yet which model is next. If it may be one of another zoo, the node of this zoo has to go too.
    """
    zoo, _ = key
    others: Sequence[ModelKey] = sorted(groups, key=lambda other: other[0] == zoo)
    return groups[others[0]][0] if others else None


def _run(session: pytest.Session, item: pytest.Item, following: pytest.Item | None) -> None:
    """Run a test as pytest's own loop does.

    Raises:
        pytest.Session.Failed: `-x` or `--maxfail` ends the run.
        pytest.Session.Interrupted: something else does.
    """
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
