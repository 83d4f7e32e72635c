"""The hooks of a run with zoos."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap._text import join_first, pluralize
from pytest_headswap.case.options import AUTO
from pytest_headswap.plugin.apply_expectations import skip_if_not_run
from pytest_headswap.plugin.collection.nodes import CheckItem, ZooNode
from pytest_headswap.plugin.collection.phase_reports import attach_result
from pytest_headswap.plugin.collection.replay import TAKEN_OVER, report_taken_over
from pytest_headswap.plugin.settings import CARRIED_OVER, Settings, worker_input

if TYPE_CHECKING:
    from pytest_headswap.isolation.executor import Executor


class ZooSession:
    """Collects the zoos, and adds findings to the reports. Used in the controller and in each worker."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self._executor: Executor | None = None
        self._not_isolated_reason = ""

    def pytest_report_header(self) -> list[str]:
        """Return two lines: what runs, and within which limits."""
        from pytest_headswap.plugin.collection.select_executor import limits_header

        shard = self.settings.shard
        selected = [f"{len(names)} of {len(zoo)} models" for zoo, names in self.settings.selected]
        if shard is not None:
            counts = [len(names) for _, names in self.settings.this_shard]
            selected = [f"{text}, shard {shard}: {count}" for text, count in zip(selected, counts, strict=True)]
        zoos = ", ".join(
            f"{zoo.name} ({text})" for (zoo, _), text in zip(self.settings.selected, selected, strict=True)
        )
        options = self.settings.options
        parts = [] if self.settings.sample is None else [f"SAMPLE ({self.settings.sample})"]
        parts += [zoos, ", ".join(check.name for check in self.settings.checks), f"{options.num_classes} classes"]
        parts += [f"{options.evidence} evidence"] if options.evidence != "auto" else []
        devices = join_first(self.settings.devices) or (options.device if options.device != AUTO else "")
        parts += [f"on {devices}"] if devices else []
        return [f"headswap: {'; '.join(parts)}", limits_header(self.config, self.settings)]

    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> list[str]:
        """Return a line with what `-k`, `-m` and `--deselect` leave of the plan, if one of them is given."""
        option = self.config.option
        if not (option.keyword or option.markexpr or option.deselect):
            return []
        tests = [item.check_id for item in items if isinstance(item, CheckItem)]
        models = {(test.zoo, test.model) for test in tests}
        planned = pluralize(self.settings.model_count, "model")
        return [f"headswap: -k, -m and --deselect leave {len(models):,} of {planned}, {pluralize(len(tests), 'check')}"]

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Add the zoos to the session's children."""
        report = yield
        if isinstance(collector, pytest.Session) and self.settings.scope == "alongside":
            report.result = [*report.result, *self._nodes(collector)]
        return report

    @pytest.hookimpl(tryfirst=True, specname="pytest_make_collect_report")
    def pytest_make_collect_report_exclusive(self, collector: pytest.Collector) -> pytest.CollectReport | None:
        """Collect only the zoos, so that pytest does not look for the project's tests."""
        if isinstance(collector, pytest.Session) and self.settings.scope == "exclusive":
            return pytest.CollectReport("", "passed", None, list(self._nodes(collector)))
        return None

    def _nodes(self, session: pytest.Session) -> list[ZooNode]:
        return [
            ZooNode.from_parent(session, zoo=zoo, models=names, settings=self.settings, executor=self.executor)
            for zoo, names in self.settings.this_shard
            if names
        ]

    def executor(self) -> Executor:
        """Return the executor for the models."""
        executor = self._executor_or_new()
        if self._not_isolated_reason:
            from pytest_headswap.isolation.executor import warn_not_isolated

            why, self._not_isolated_reason = self._not_isolated_reason, ""
            warn_not_isolated(why)
        return executor

    def _executor_or_new(self) -> Executor:
        if self._executor is None:
            from pytest_headswap.plugin.collection.select_executor import make_executor

            self._executor, self._not_isolated_reason = make_executor(self.config, self.settings)
        return self._executor

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Start the child process before the project's tests run here: once one has used a GPU, no fork can."""
        taken_over = self.config.stash.get(TAKEN_OVER, {})
        has_checks = any(isinstance(item, CheckItem) and item.nodeid not in taken_over for item in session.items)
        if has_checks and self.settings.scope == "alongside" and not self.config.option.collectonly:
            self._executor_or_new()

    def pytest_unconfigure(self) -> None:
        """Close the executor."""
        if self._executor is not None:
            self._executor.close()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Deselect the tests whose results are kept from an earlier run, and begin with those that are taken over.

        No model is built then, so none is torn down in between.
        """
        deselect_carried_over(config, items)
        if taken_over := config.stash.get(TAKEN_OVER, None):
            items.sort(key=lambda item: item.nodeid not in taken_over)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Report a test whose result is taken over, without running it."""
        replay = self.config.stash.get(TAKEN_OVER, {}).get(item.nodeid)
        if replay is None or not isinstance(item, CheckItem):
            return None
        report_taken_over(item, replay)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip a check that is not to be run, before its model is built."""
        if isinstance(item, CheckItem):
            skip_if_not_run(self.settings.expectations, item.check_id)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Annotate the report. This wrapper is outermost, so it sees the final outcome, after marks such as xfail."""
        report = yield
        if isinstance(item, CheckItem):
            attach_result(item, call, report)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Report success on a machine whose shard has no model because there are more machines than models."""
        nothing = session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
        if nothing and self.settings.shard is not None and not self.settings.model_count:
            session.exitstatus = pytest.ExitCode.OK

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Send an xdist worker what only the controller knows."""
        node.workerinput.update(worker_input(self.config, self.settings))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Keep the checks of a model on one worker, and start with the longest models."""
        from pytest_headswap.plugin.planning.costs import model_seconds
        from pytest_headswap.plugin.planning.xdist_scheduler import make_scheduler

        return make_scheduler(config, log, model_seconds(self.settings))


def set_torch_threads(worker_count: int) -> None:
    """Give each worker its share of the cores, unless the user has set `OMP_NUM_THREADS`."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // worker_count))


def deselect_carried_over(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests whose results are kept from an earlier run."""
    carried_over = config.stash.get(CARRIED_OVER, frozenset())
    if out := [item for item in items if item.nodeid in carried_over]:
        items[:] = [item for item in items if item.nodeid not in carried_over]
        config.hook.pytest_deselected(items=out)
