"""Which bench a run has: one with a process for its models wherever the system, and what the user does, allow that."""

from __future__ import annotations

import sys
import warnings

import pytest

from pytest_headswap._plugin.bench import Bench, LocalBench
from pytest_headswap._plugin.budget import gib
from pytest_headswap._plugin.learnt import known_too_large
from pytest_headswap._plugin.options import Settings
from pytest_headswap._plugin.plan import run_budget


def why_local(config: pytest.Config) -> str:
    """Why models run in the process of pytest, where nothing protects it from them; empty where they do not."""
    if sys.platform != "linux":
        return "on this system"
    if config.option.usepdb or config.option.trace:
        return "with --pdb and --trace"
    if sys.gettrace() is not None or _is_monitored():
        return "under a debugger or coverage"
    return ""


def _is_monitored() -> bool:
    """Whether a debugger watches in the way of Python 3.12."""
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None


def make_bench(config: pytest.Config, settings: Settings) -> Bench:
    """The bench of this process."""
    budget = run_budget(config, settings)
    if why_local(config):
        return LocalBench(config, settings, budget, {})
    local = LocalBench(config, settings, budget, known_too_large(config, settings, budget.model))
    return _guarded(local) or local


def _guarded(local: LocalBench) -> Bench | None:
    import torch

    from pytest_headswap._plugin.guarded import GuardedBench

    why = "CUDA is in use here already"
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        guarded = GuardedBench(local)
        why = guarded.try_out()
        if not why:
            return guarded
        guarded.close()
    warnings.warn(
        f"headswap: models run in the process of pytest, without limits of time and memory: {why}", stacklevel=1
    )
    return None


def limits_line(config: pytest.Config, settings: Settings) -> str:
    """What a model may take, in words."""
    if why := why_local(config):
        return f"headswap: limits: none, since models run in the process of pytest {why}"
    memory = gib(run_budget(config, settings).model)
    return f"headswap: limits: {settings.options.timeout:g} s and {memory} for each model"
