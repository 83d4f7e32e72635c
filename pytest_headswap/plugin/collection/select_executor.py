"""Choose the executor of a run: child processes wherever the system and the user's options allow it."""

from __future__ import annotations

import sys

import pytest

from pytest_headswap._text import format_bytes, pluralize
from pytest_headswap.harness.memory_budget import MemoryBudget, resolve_memory_budget
from pytest_headswap.isolation.executor import Executor, OversizedModels
from pytest_headswap.isolation.in_process_executor import InProcessExecutor
from pytest_headswap.plugin.failure_style import failure_text
from pytest_headswap.plugin.planning.costs import known_oversized
from pytest_headswap.plugin.settings import Settings

_BUDGET = pytest.StashKey[MemoryBudget]()


def why_not_isolated(config: pytest.Config) -> str:
    """Return why models run unprotected in the pytest process; empty if they run in a child process."""
    if sys.platform != "linux":
        return "on this system"
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
    budget = run_memory_budget(config, settings)
    if why_not_isolated(config):
        return _in_process_executor(config, settings, budget, {}), ""
    in_process = _in_process_executor(config, settings, budget, known_oversized(settings, budget.process_bytes))
    import torch

    from pytest_headswap.isolation.subprocess_executor import SubprocessExecutor

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return in_process, "CUDA is already in use in this process"
    isolated = SubprocessExecutor(in_process)
    why = isolated.start()
    return (in_process, why) if why else (isolated, "")


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
    max_bytes = run_memory_budget(config, settings).process_bytes
    oversized = len(known_oversized(settings, max_bytes))
    note = f"; abstract evidence for {pluralize(oversized, 'model')} known to need more memory" if oversized else ""
    return f"headswap: limits: {settings.options.timeout:g} s and {format_bytes(max_bytes)} for each model{note}"


def run_memory_budget(config: pytest.Config, settings: Settings) -> MemoryBudget:
    """Return the memory budget of this process, or of each worker; it is measured once."""
    if _BUDGET not in config.stash:
        workerinput = getattr(config, "workerinput", None)
        workers = worker_count(config) if workerinput is None else int(workerinput["workercount"])
        config.stash[_BUDGET] = resolve_memory_budget(settings.options.memory_limit, workers)
    return config.stash[_BUDGET]


def worker_count(config: pytest.Config) -> int:
    """Return the number of workers that share the models; 1 without xdist."""
    if config.getoption("dist", "no") == "no":
        return 1
    counts = [spec.partition("*")[0] if "*" in spec else "1" for spec in config.getoption("tx", None) or ["popen"]]
    return sum(int(count) if count.isdigit() else 1 for count in counts)
