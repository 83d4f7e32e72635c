"""Choose the executor of a run: child processes wherever the system and the user's options allow it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap._devices import is_real
from pytest_headswap._text import format_bytes, pluralize
from pytest_headswap.case.options import AUTO
from pytest_headswap.harness.memory_budget import MemoryBudget, resolve_memory_budget
from pytest_headswap.isolation.executor import Executor, OversizedModels
from pytest_headswap.isolation.in_process_executor import InProcessExecutor
from pytest_headswap.plugin.controller_data import SPAWNED, controller_data
from pytest_headswap.plugin.failure_style import failure_text
from pytest_headswap.plugin.planning.costs import known_oversized
from pytest_headswap.plugin.settings import Settings, worker_input

if TYPE_CHECKING:
    from pytest_headswap.isolation.child_process import StartMethod
    from pytest_headswap.isolation.subprocess_executor import SubprocessExecutor

_BUDGET = pytest.StashKey[MemoryBudget]()


def why_not_isolated(config: pytest.Config) -> str:
    """Return why models run unprotected in the pytest process; empty if they run in a child process."""
    if config.option.usepdb or config.option.trace:
        return "with --pdb and --trace"
    if sys.gettrace() is not None or _debugger_attached():
        return "under a debugger or coverage"
    return ""


def _debugger_attached() -> bool:
    """Return whether a debugger uses `sys.monitoring` (Python 3.12)."""
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None


def make_executor(config: pytest.Config, settings: Settings) -> tuple[Executor, str]:
    """Return the executor of this process, and why it cannot use a child process; empty if it does or need not."""
    if settings.on_cluster:
        return _cluster_executor(config, settings), ""
    budget = run_memory_budget(config, settings)
    if why_not_isolated(config):
        return _in_process_executor(config, settings, budget, {}), ""
    in_process = _in_process_executor(config, settings, budget, known_oversized(settings, budget.process_bytes))
    from pytest_headswap.isolation.subprocess_executor import SubprocessExecutor

    spawned = SpawnedExecutor.of(config, settings, budget)
    methods = _start_methods(settings.isolation, settings.options.device)
    isolated = SubprocessExecutor(in_process, methods, spawned)
    if settings.processes:
        return _pool_executor(settings, methods[0], isolated, spawned), ""
    why = isolated.start()
    return (in_process, why) if why else (isolated, "")


def _pool_executor(
    settings: Settings, method: StartMethod, isolated: SubprocessExecutor, spawned: SpawnedExecutor
) -> Executor:
    from pytest_headswap.isolation.pool_executor import PoolExecutor
    from pytest_headswap.isolation.process_pool import ProcessPool

    make: Callable[[], SubprocessExecutor] = PoolProcessExecutor(spawned, settings.isolation, settings.options.device)
    if method == "fork":
        make = lambda: isolated  # noqa: E731 - each process has its copy
    return PoolExecutor(ProcessPool(settings.processes, method, make))


def _start_methods(isolation: str, device: str) -> tuple[StartMethod, StartMethod]:
    from pytest_headswap.engine.pytorch import accelerators

    if isolation == "fork":
        return "fork", "fork"
    if isolation == "spawn" or not _can_fork() or accelerators.breaks_fork(device):
        return "spawn", "spawn"
    return "fork", "spawn"


def _cluster_executor(config: pytest.Config, settings: Settings) -> Executor:
    from pytest_headswap.isolation.pool_executor import PoolExecutor
    from pytest_headswap.isolation.ray_pool import ClusterError, RayCluster, RayPool

    try:
        cluster = RayCluster(settings.executor.removeprefix("ray").removeprefix(":"))
        budget = resolve_memory_budget(settings.options.memory_limit, 1, cluster.memory_share)
        make = PoolProcessExecutor(
            SpawnedExecutor.of(config, settings, budget), settings.isolation, settings.options.device
        )
        gpus = cluster.gpu_share if is_real(settings.options.device) else 0.0
        return PoolExecutor(RayPool(cluster, make, budget.process_bytes, gpus))
    except ClusterError as error:
        raise pytest.UsageError(f"--headswap-executor={settings.executor}: {error}") from error


def _can_fork() -> bool:
    """Return whether a fork is safe. The libraries of macOS do not work in one."""
    return hasattr(os, "fork") and sys.platform != "darwin"


@dataclass(frozen=True)
class SpawnedExecutor:
    """Makes the executor of a spawned process from plain data. The process configures pytest once more.

    It imports plugins, `conftest.py` and zoos again. No session starts in it.
    """

    options: dict[str, Any]
    arguments: list[str]
    folder: Path
    workerinput: dict[str, Any]
    budget: MemoryBudget

    @classmethod
    def of(cls, config: pytest.Config, settings: Settings, budget: MemoryBudget) -> SpawnedExecutor:
        """Return the recipe for a process with the same settings."""
        options = {**vars(config.option), "dist": "no", "numprocesses": None, "tx": [], "cacheclear": False}
        options |= {"capture": "no", "log_file": os.devnull}  # the files of this process
        options["plugins"] = [*config.option.plugins, "no:terminal", "no:faulthandler"]
        # the child imported this package before pytest could rewrite its assertions
        rewrite = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
        options["pythonwarnings"] = [*(config.option.pythonwarnings or ()), rewrite]
        own = controller_data(config) or {"workercount": settings.processes or 1}
        workerinput = {**own, **worker_input(config, settings)}
        return cls(options, list(config.args), config.invocation_params.dir, workerinput, budget)

    def __call__(self) -> InProcessExecutor:
        """Return the executor; called in the spawned process."""
        folder = Path.cwd()
        os.chdir(self.folder)  # paths in options are relative to it
        config: Any = pytest.Config.fromdictargs(self.options, self.arguments)
        config.stash[SPAWNED] = self.workerinput
        config._do_configure()
        os.chdir(folder)
        settings = config.pluginmanager.get_plugin("headswap-run").settings
        return _in_process_executor(config, settings, self.budget, known_oversized(settings, self.budget.process_bytes))


@dataclass(frozen=True)
class PoolProcessExecutor:
    """Makes the executor of a process of a pool from plain data, on this machine or on a node of a cluster."""

    spawned: SpawnedExecutor
    isolation: str
    device: str

    def __call__(self) -> SubprocessExecutor:
        """Return the executor; called in the process."""
        from pytest_headswap.isolation.subprocess_executor import SubprocessExecutor

        return SubprocessExecutor(self.spawned(), _start_methods(self.isolation, self.device), self.spawned)


def _in_process_executor(
    config: pytest.Config, settings: Settings, budget: MemoryBudget, oversized: OversizedModels
) -> InProcessExecutor:
    return InProcessExecutor(
        [zoo for zoo, _ in settings.this_shard],
        settings.checks,
        settings.options,
        budget,
        oversized,
        on_case=lambda case: config.hook.pytest_headswap_case(config=config, case=case),
        ignore_refusals=settings.expectations.run_skipped,
        format_failure=lambda error: failure_text(error, config),
    )


def limits_header(config: pytest.Config, settings: Settings) -> str:
    """Return a line with the limits of a model, and how many models are known to exceed them."""
    if why := why_not_isolated(config):
        return f"headswap: limits: none, because models run in the pytest process {why}"
    if settings.on_cluster and settings.options.memory_limit == AUTO:
        return f"headswap: limits: {settings.options.timeout:g} s and a CPU's share of the node's memory for each model"
    max_bytes = run_memory_budget(config, settings).process_bytes
    oversized = len(known_oversized(settings, max_bytes))
    note = f"; abstract evidence for {pluralize(oversized, 'model')} known to need more memory" if oversized else ""
    return f"headswap: limits: {settings.options.timeout:g} s and {format_bytes(max_bytes)} for each model{note}"


def run_memory_budget(config: pytest.Config, settings: Settings) -> MemoryBudget:
    """Return the memory budget of this process, or of each worker; it is measured once."""
    if _BUDGET not in config.stash:
        workerinput = controller_data(config)
        here = settings.processes or worker_count(config)
        workers = here if workerinput is None else int(workerinput["workercount"])
        config.stash[_BUDGET] = resolve_memory_budget(settings.options.memory_limit, workers)
    return config.stash[_BUDGET]


def worker_count(config: pytest.Config) -> int:
    """Return the number of workers that share the models; 1 without xdist."""
    if config.getoption("dist", "no") == "no":
        return 1
    counts = [spec.partition("*")[0] if "*" in spec else "1" for spec in config.getoption("tx", None) or ["popen"]]
    return sum(int(count) if count.isdigit() else 1 for count in counts)
