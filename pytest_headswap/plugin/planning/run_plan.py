"""Plan a run: its models, and how long they are expected to take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from pytest_headswap._case_options import CaseOptions
from pytest_headswap._text import pluralize
from pytest_headswap.harness.memory_budget import MemoryBudget, resolve_memory_budget
from pytest_headswap.plugin.planning.cost_cache import cached_costs, known_oversized
from pytest_headswap.plugin.planning.costs import MIN_SAMPLES, expected_costs
from pytest_headswap.plugin.settings import CARRIED_OVER, Settings
from pytest_headswap.results.ids import model_id

_BUDGET = pytest.StashKey[MemoryBudget]()
_ESTIMATE = pytest.StashKey["RunEstimate"]()


@dataclass(frozen=True)
class RunEstimate:
    """The expected cost of each model.

    Attributes:
        seconds: by the id of the model, such as `timm::resnet18`.
        confidence: `known`; `at most` if the costs come only from runs with more work per model; or `none`.
    """

    seconds: Mapping[str, float]
    confidence: str

    def duration(self, workers: int) -> float:
        """Return the seconds that this number of workers needs."""
        return max(sum(self.seconds.values()) / workers, *self.seconds.values()) if self.seconds else 0.0


def run_estimate(config: pytest.Config, settings: Settings) -> RunEstimate:
    """Return the plan of this run, computed once."""
    if _ESTIMATE not in config.stash:
        config.stash[_ESTIMATE] = _estimate(config, settings)
    return config.stash[_ESTIMATE]


def _estimate(config: pytest.Config, settings: Settings) -> RunEstimate:
    seconds: dict[str, float] = {}
    confidences = set()
    for zoo, names in settings.this_shard:
        cached = cached_costs(config, zoo, settings)
        costs = expected_costs(zoo.name, cached)
        seconds |= {model_id(zoo.name, name): costs[name].seconds for name in names}
        if not costs.models:
            confidences.add("unknown")
        elif (
            not costs.versions
            or len(cached) >= MIN_SAMPLES
            or cached.keys() >= set(names)
            or _same_workload_as_shipped(settings)
        ):
            confidences.add("measured")
        else:
            confidences.add("upper_bound")
    return RunEstimate(
        seconds,
        next((confidence for confidence in ("unknown", "upper_bound") if confidence in confidences), "measured"),
    )


def _same_workload_as_shipped(settings: Settings) -> bool:
    """Return whether this run does the same work per model as the measurements of the shipped costs."""
    from pytest_headswap.checks import CHECKS

    return settings.options.evidence == CaseOptions().evidence and {check.name for check in settings.checks} >= set(
        CHECKS
    )


def plan_header(config: pytest.Config, settings: Settings) -> str:
    """Return the plan in words."""
    estimate = run_estimate(config, settings)
    workers = worker_count(config)
    estimate = replace(estimate, seconds=_remaining(config, settings, estimate.seconds))
    checks = settings.model_count * len(settings.checks) - len(config.stash.get(CARRIED_OVER, ()))
    if not checks:
        return "headswap: plan: nothing is left to run"
    parts = [
        pluralize(len(estimate.seconds), "model"),
        pluralize(checks, "check"),
        _planned_evidence(config, settings),
    ]
    if estimate.confidence != "unknown":
        about = "at most about" if estimate.confidence == "upper_bound" else "about"
        on = f" on {workers} workers" if workers > 1 else ""
        parts.append(f"{about} {format_estimate(estimate.duration(workers))}{on}")
    return f"headswap: plan: {', '.join(parts)}"


def _remaining(config: pytest.Config, settings: Settings, seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of each model that are left after results kept from an earlier run."""
    done = Counter(nodeid.rpartition("::")[0] for nodeid in config.stash.get(CARRIED_OVER, ()))
    checks = len(settings.checks)
    return {model: cost * (1 - done[model] / checks) for model, cost in seconds.items() if done[model] < checks}


def _planned_evidence(config: pytest.Config, settings: Settings) -> str:
    """Return how many models get numeric evidence, and how many are known to be too large for it."""
    evidence = settings.options.evidence
    if evidence != CaseOptions().evidence:
        return evidence
    oversized = len(known_oversized(config, settings, run_memory_budget(config, settings).process_bytes))
    if not oversized:
        return "numeric where memory allows"
    return f"numeric for {settings.model_count - oversized:,}, abstract for {oversized:,} that take too much memory"


def run_memory_budget(config: pytest.Config, settings: Settings) -> MemoryBudget:
    """Return the memory budget of this process, or of each worker; it is measured once."""
    if _BUDGET not in config.stash:
        workerinput = getattr(config, "workerinput", None)
        workers = worker_count(config) if workerinput is None else int(workerinput["workercount"])
        config.stash[_BUDGET] = resolve_memory_budget(settings.options.memory_limit, workers)
    return config.stash[_BUDGET]


def worker_count(config: pytest.Config) -> int:
    """Return the number of workers that share the models; 1 without xdist."""
    if config.getoption("dist", "no") in ("no", "each"):
        return 1
    counts = [spec.partition("*")[0] if "*" in spec else "1" for spec in config.getoption("tx", None) or ["popen"]]
    return sum(int(count) if count.isdigit() else 1 for count in counts)


def format_estimate(seconds: float) -> str:
    """Format a duration with the precision of an estimate."""
    minutes = round(seconds / 60)
    if minutes >= 120:
        return f"{minutes // 60} h {minutes % 60} min"
    if minutes <= 1:
        return "a minute"
    return f"{minutes} minutes"
