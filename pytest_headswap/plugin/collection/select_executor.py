"""Choose the executor of a run: child processes wherever the system and the user's options allow it."""

from __future__ import annotations

import sys

import pytest

from pytest_headswap.harness.memory_budget import Budget, gib
from pytest_headswap.isolation.executor import Bench, TooLarge
from pytest_headswap.isolation.in_process_executor import LocalBench
from pytest_headswap.plugin.failure_style import failure_text
from pytest_headswap.plugin.planning.cost_cache import known_too_large
from pytest_headswap.plugin.planning.run_plan import run_budget
from pytest_headswap.plugin.settings import Settings


def why_local(config: pytest.Config) -> str:
    """Return why models run unprotected in the pytest process; empty if they run in a child process."""
    if sys.platform != "linux":
        return "on this system"
    if config.option.usepdb or config.option.trace:
        return "with --pdb and --trace"
    if sys.gettrace() is not None or _is_monitored():
        return "under a debugger or coverage"
    return ""


def _is_monitored() -> bool:
    """Return whether a debugger uses `sys.monitoring` (Python 3.12)."""
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None


def make_bench(config: pytest.Config, settings: Settings) -> tuple[Bench, str]:
    """Return the executor of this process, and why it has no child process although it should; empty otherwise."""
    budget = run_budget(config, settings)
    if why_local(config):
        return _local(config, settings, budget, {}), ""
    local = _local(config, settings, budget, known_too_large(config, settings, budget.model))
    import torch

    from pytest_headswap.isolation.subprocess_executor import GuardedBench

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return local, "CUDA is in use here already"
    guarded = GuardedBench(local)
    why = guarded.try_out()
    return (local, why) if why else (guarded, "")


def _local(config: pytest.Config, settings: Settings, budget: Budget, large: TooLarge) -> LocalBench:
    return LocalBench(
        [zoo for zoo, _ in settings.zoos],
        settings.checks,
        settings.options,
        budget,
        large,
        on_case=lambda case: config.hook.pytest_headswap_case(config=config, case=case),
        ignore_refusals=settings.expectations.audit,
        format_failure=lambda error: failure_text(error, config),
    )


def limits_line(config: pytest.Config, settings: Settings) -> str:
    """Return a line with the limits of a model."""
    if why := why_local(config):
        return f"headswap: limits: none, since models run in the process of pytest {why}"
    memory = gib(run_budget(config, settings).model)
    return f"headswap: limits: {settings.options.timeout:g} s and {memory} for each model"
