"""Keep the cost of models from earlier runs on this machine in pytest's cache.

The key includes the versions of the zoo's libraries and the options, since both affect the cost.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap._case_options import CaseOptions
from pytest_headswap.plugin.planning.costs import Cost, costs_from_json, costs_to_json, expected_costs
from pytest_headswap.plugin.settings import Settings
from pytest_headswap.results import Result

if TYPE_CHECKING:
    from pytest_headswap.zoo import Zoo

MAX_SIGNATURES = 4
MAX_MODELS = 20_000


def cached_costs(config: pytest.Config, zoo: Zoo, settings: Settings) -> dict[str, Cost]:
    """Return the costs of the zoo's models in runs like this one; empty if the cache is disabled or broken."""
    try:
        return costs_from_json(_stored(config, zoo)[_run_signature(zoo, settings)])
    except (KeyError, ValueError):
        return {}


def known_oversized(config: pytest.Config, settings: Settings, allowed: int) -> dict[tuple[str, str], float]:
    """Return the models whose measured peak memory exceeds `allowed` bytes: zoo and model, with the peak in MiB."""
    if settings.options.evidence != CaseOptions().evidence:
        return {}
    oversized: dict[tuple[str, str], float] = {}
    for zoo, names in settings.this_shard:
        costs = expected_costs(zoo.name, cached_costs(config, zoo, settings)).models
        for model in names:
            peak = costs[model].peak_mb if model in costs else None
            if peak is not None and peak * 2**20 > allowed:
                oversized[zoo.name, model] = peak
    return oversized


class CostRecorder:
    """Records the cost of each model for the next run. Used only in the controller."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self._costs: dict[tuple[str, str], Cost] = {}
        self._checks: dict[tuple[str, str], int] = {}

    def pytest_headswap_result(self, result: Result) -> None:
        """Add a result to the cost of its model."""
        key = result.zoo, result.model
        before = self._costs.get(key, Cost(0.0))
        peaks = [peak for peak in (before.peak_mb, result.peak_memory_mb) if peak is not None]
        self._costs[key] = Cost(before.seconds + result.seconds, max(peaks, default=None))
        if result.outcome != "crashed" or result.peak_memory_mb is not None:  # a crash of an xdist worker is not timed
            self._checks[key] = self._checks.get(key, 0) + 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write the costs of the models whose checks all ran."""
        for zoo, _ in self.settings.this_shard:
            costs = {
                model: cost
                for (name, model), cost in self._costs.items()
                if name == zoo.name and self._checks.get((name, model)) == len(self.settings.checks)
            }
            if costs:
                _write(self.config, zoo, self.settings, costs)


def _write(config: pytest.Config, zoo: Zoo, settings: Settings, costs: dict[str, Cost]) -> None:
    cache = getattr(config, "cache", None)
    if cache is None:
        return
    stored, kind = _stored(config, zoo), _run_signature(zoo, settings)
    older = cached_costs(config, zoo, settings)
    # keep the highest peak: with less memory, a run used abstract evidence, which takes little
    costs = {model: _keep_higher_peak(cost, older.get(model)) for model, cost in costs.items()}
    models = {**costs, **{model: cost for model, cost in older.items() if model not in costs}}
    kinds = {
        kind: costs_to_json(dict(list(models.items())[:MAX_MODELS])),
        **{k: v for k, v in stored.items() if k != kind},
    }
    # as text: the cache would indent JSON and put each number on its own line
    cache.set(_key(zoo), json.dumps(dict(list(kinds.items())[:MAX_SIGNATURES]), separators=(",", ":")))


def _keep_higher_peak(cost: Cost, older: Cost | None) -> Cost:
    peaks = [peak for peak in (cost.peak_mb, older.peak_mb if older is not None else None) if peak is not None]
    return Cost(cost.seconds, max(peaks, default=None))


def _stored(config: pytest.Config, zoo: Zoo) -> dict[str, Any]:
    """Return the stored costs by kind of run, most recently written first."""
    cache = getattr(config, "cache", None)
    text = cache.get(_key(zoo), None) if cache is not None else None
    try:
        stored = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        stored = None
    return stored if isinstance(stored, dict) else {}


def _key(zoo: Zoo) -> str:
    """Return a valid cache key: the zoo's name may be a file path, and a key becomes a file name."""
    name = zoo.name if zoo.name.isidentifier() else hashlib.sha256(ascii(zoo.name).encode()).hexdigest()[:16]
    return f"headswap/costs/{name}"


def _run_signature(zoo: Zoo, settings: Settings) -> str:
    options = settings.options
    versions = [f"{name} {number}" for name, number in sorted(zoo.versions.items())]
    return ", ".join([*versions, options.evidence, options.device, *(check.name for check in settings.checks)])
