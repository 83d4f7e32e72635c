"""The hooks of a run with zoos."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.plugin.apply_expectations import skip_if_not_run
from pytest_headswap.plugin.collection.nodes import CheckItem, ZooNode
from pytest_headswap.plugin.collection.phase_reports import annotate
from pytest_headswap.plugin.settings import TAKEN, Settings

if TYPE_CHECKING:
    from pytest_headswap.isolation.executor import Bench


class ZooRun:
    """Collects the zoos, and adds findings to the reports. Used in the controller and in each worker."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self._bench: Bench | None = None
        self._unprotected = ""

    def pytest_report_header(self) -> list[str]:
        """Return two lines: what runs, and within which limits."""
        from pytest_headswap.plugin.collection.select_executor import limits_line

        shard = self.settings.shard
        selected = [f"{len(names)} of {len(zoo)} models" for zoo, names in self.settings.whole]
        if shard is not None:
            counts = [len(names) for _, names in self.settings.zoos]
            selected = [f"{text}, shard {shard}: {count}" for text, count in zip(selected, counts, strict=True)]
        zoos = ", ".join(f"{zoo.name} ({text})" for (zoo, _), text in zip(self.settings.whole, selected, strict=True))
        options = self.settings.options
        parts = [zoos, ", ".join(check.name for check in self.settings.checks), f"{options.num_classes} classes"]
        parts += [f"{options.evidence} evidence"] if options.evidence != "auto" else []
        parts += [f"on {options.device}"] if options.device != "auto" else []
        return [f"headswap: {'; '.join(parts)}", limits_line(self.config, self.settings)]

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Add the zoos to the session's children."""
        report = yield
        if isinstance(collector, pytest.Session) and self.settings.scope == "beside":
            report.result = [*report.result, *self._nodes(collector)]
        return report

    @pytest.hookimpl(tryfirst=True, specname="pytest_make_collect_report")
    def pytest_make_collect_report_only(self, collector: pytest.Collector) -> pytest.CollectReport | None:
        """Collect only the zoos, so that pytest does not look for the project's tests."""
        if isinstance(collector, pytest.Session) and self.settings.scope == "only":
            return pytest.CollectReport("", "passed", None, list(self._nodes(collector)))
        return None

    def _nodes(self, session: pytest.Session) -> list[ZooNode]:
        return [
            ZooNode.from_parent(session, zoo=zoo, models=names, settings=self.settings, bench=self.bench)
            for zoo, names in self.settings.zoos
            if names
        ]

    def bench(self) -> Bench:
        """Return the executor for the models."""
        bench = self._made_bench()
        if self._unprotected:
            from pytest_headswap.isolation.executor import warn_unprotected

            why, self._unprotected = self._unprotected, ""
            warn_unprotected(why)
        return bench

    def _made_bench(self) -> Bench:
        if self._bench is None:
            from pytest_headswap.plugin.collection.select_executor import make_bench

            self._bench, self._unprotected = make_bench(self.config, self.settings)
        return self._bench

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Fork the child process before the project's tests run here: once one has used a GPU, it is too late."""
        asked = any(isinstance(item, CheckItem) for item in session.items)
        if asked and self.settings.scope == "beside" and not self.config.option.collectonly:
            self._made_bench()

    def pytest_unconfigure(self) -> None:
        """Close the executor."""
        if self._bench is not None:
            self._bench.close()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Deselect the tests whose results are kept from an earlier run."""
        leave_out_taken(config, items)

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
            annotate(item, call, report)
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
        node.workerinput["headswap_scope"] = self.settings.scope
        node.workerinput["headswap_expectations"] = self.settings.expectations.sent

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Keep the checks of a model on one worker, and start with the longest models."""
        from pytest_headswap.plugin.planning.run_plan import plan_of
        from pytest_headswap.plugin.planning.xdist_scheduler import make_scheduler

        return make_scheduler(config, log, plan_of(config, self.settings).seconds)


def share_cores(worker_count: int) -> None:
    """Give each worker its share of the cores, unless the user has set `OMP_NUM_THREADS`."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // worker_count))


def leave_out_taken(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests whose results are kept from an earlier run."""
    taken = config.stash.get(TAKEN, frozenset())
    if out := [item for item in items if item.nodeid in taken]:
        items[:] = [item for item in items if item.nodeid not in taken]
        config.hook.pytest_deselected(items=out)
