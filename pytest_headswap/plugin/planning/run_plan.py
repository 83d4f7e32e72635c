"""Plan a run: its models, and how long they are expected to take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from pytest_headswap._text import counted
from pytest_headswap.harness.memory_budget import Budget, budget_of
from pytest_headswap.harness.options import CaseOptions
from pytest_headswap.plugin.planning.cost_cache import known_too_large, read_learnt
from pytest_headswap.plugin.planning.costs import ENOUGH, expected_costs
from pytest_headswap.plugin.settings import TAKEN, Settings
from pytest_headswap.results.ids import model_id

_BUDGET = pytest.StashKey[Budget]()
_PLAN = pytest.StashKey["Plan"]()


@dataclass(frozen=True)
class Plan:
    """The expected cost of each model.

    Attributes:
        seconds: by the id of the model, such as `timm::resnet18`.
        basis: `known`; `at most` if the costs come only from runs with more work per model; or `none`.
    """

    seconds: Mapping[str, float]
    basis: str

    def duration(self, workers: int) -> float:
        """Return the seconds that this number of workers needs."""
        return max(sum(self.seconds.values()) / workers, *self.seconds.values()) if self.seconds else 0.0


def plan_of(config: pytest.Config, settings: Settings) -> Plan:
    """Return the plan of this run, computed once."""
    if _PLAN not in config.stash:
        config.stash[_PLAN] = _make(config, settings)
    return config.stash[_PLAN]


def _make(config: pytest.Config, settings: Settings) -> Plan:
    seconds: dict[str, float] = {}
    bases = set()
    for zoo, names in settings.zoos:
        learnt = read_learnt(config, zoo, settings)
        costs = expected_costs(zoo.name, learnt)
        seconds |= {model_id(zoo.name, name): costs[name].seconds for name in names}
        if not costs.models:
            bases.add("none")
        elif not costs.versions or len(learnt) >= ENOUGH or learnt.keys() >= set(names) or _as_measured(settings):
            bases.add("known")
        else:
            bases.add("at most")
    return Plan(seconds, next((basis for basis in ("none", "at most") if basis in bases), "known"))


def _as_measured(settings: Settings) -> bool:
    """Return whether this run does the same work per model as the measurements of the shipped costs."""
    from pytest_headswap.checks import CHECKS

    return settings.options.evidence == CaseOptions().evidence and {check.name for check in settings.checks} >= set(
        CHECKS
    )


def plan_line(config: pytest.Config, settings: Settings) -> str:
    """Return the plan in words."""
    plan = plan_of(config, settings)
    workers = worker_count(config)
    plan = replace(plan, seconds=_left(config, settings, plan.seconds))
    checks = settings.model_count * len(settings.checks) - len(config.stash.get(TAKEN, ()))
    if not checks:
        return "headswap: plan: nothing is left to run"
    parts = [
        counted(len(plan.seconds), "model"),
        counted(checks, "check"),
        _planned_evidence(config, settings),
    ]
    if plan.basis != "none":
        about = "at most about" if plan.basis == "at most" else "about"
        on = f" on {workers} workers" if workers > 1 else ""
        parts.append(f"{about} {told_duration(plan.duration(workers))}{on}")
    return f"headswap: plan: {', '.join(parts)}"


def _left(config: pytest.Config, settings: Settings, seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of each model that are left after results kept from an earlier run."""
    done = Counter(nodeid.rpartition("::")[0] for nodeid in config.stash.get(TAKEN, ()))
    checks = len(settings.checks)
    return {model: cost * (1 - done[model] / checks) for model, cost in seconds.items() if done[model] < checks}


def _planned_evidence(config: pytest.Config, settings: Settings) -> str:
    """Return how many models get numeric evidence, and how many are known to be too large for it."""
    evidence = settings.options.evidence
    if evidence != CaseOptions().evidence:
        return evidence
    large = len(known_too_large(config, settings, run_budget(config, settings).model))
    if not large:
        return "numeric where memory allows"
    return f"numeric for {settings.model_count - large:,}, structure for {large:,} that take too much memory"


def run_budget(config: pytest.Config, settings: Settings) -> Budget:
    """Return the memory budget of this process, or of each worker; it is measured once."""
    if _BUDGET not in config.stash:
        workerinput = getattr(config, "workerinput", None)
        workers = worker_count(config) if workerinput is None else int(workerinput["workercount"])
        config.stash[_BUDGET] = budget_of(settings.options.memory, workers)
    return config.stash[_BUDGET]


def worker_count(config: pytest.Config) -> int:
    """Return the number of workers that share the models; 1 without xdist."""
    if config.getoption("dist", "no") in ("no", "each"):
        return 1
    counts = [spec.partition("*")[0] if "*" in spec else "1" for spec in config.getoption("tx", None) or ["popen"]]
    return sum(int(count) if count.isdigit() else 1 for count in counts)


def told_duration(seconds: float) -> str:
    """Format a duration with the precision of an estimate."""
    minutes = round(seconds / 60)
    if minutes >= 120:
        return f"{minutes // 60} h {minutes % 60} min"
    if minutes <= 1:
        return "a minute"
    return f"{minutes} minutes"
