"""What the checks of a model cost: measured once for a whole zoo and shipped in `costs/<zoo>.json`.

    {"versions": {"timm": "1.0.31", "torch": "2.14.1"}, "models": {"resnet18": [1.84, 640], ...}}

A list is the seconds of all checks and the most memory in MB. The numbers are those of one machine and one version, so
they say what is long and what is short, not how long it takes elsewhere. `benchmarks/learn_costs.py` writes the file.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "costs"
ENOUGH = 5
"""From so many models on, what was learnt tells how fast this machine is."""


@dataclass(frozen=True)
class Cost:
    """What all checks of a model take.

    Attributes:
        seconds: wall time on one worker.
        peak_mb: the most memory that the process held by then, so an upper bound: earlier models count. None: not
            measured.
    """

    seconds: float
    peak_mb: float | None = None


@dataclass(frozen=True)
class Costs:
    """The costs of a zoo. A model that nobody knows costs what most do: the median."""

    models: Mapping[str, Cost] = field(default_factory=dict)
    """Those that were measured."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """What the shipped ones were measured with."""

    @cached_property
    def usual(self) -> Cost:
        """The median; one second where nothing was measured."""
        peaks = [cost.peak_mb for cost in self.models.values() if cost.peak_mb is not None]
        seconds = statistics.median(cost.seconds for cost in self.models.values()) if self.models else 1.0
        return Cost(seconds, statistics.median(peaks) if peaks else None)

    def __getitem__(self, model: str) -> Cost:
        return self.models.get(model, self.usual)


def expected_costs(zoo_name: str, learnt: Mapping[str, Cost] | None = None) -> Costs:
    """The costs that are shipped for a zoo, none for most; `learnt` from runs on this machine is laid over them.

    What is shipped is then scaled by what both know, so that it stands for this machine, and for what was asked there.
    """
    learnt = learnt or {}
    path = FOLDER / f"{zoo_name}.json"
    if not zoo_name.isidentifier() or not path.is_file():  # the name may be that of a file, with a path
        return Costs(dict(learnt))
    shipped = json.loads(path.read_text(encoding="utf-8"))
    models = costs_from_json(shipped["models"])
    ratios = [learnt[name].seconds / cost.seconds for name, cost in models.items() if name in learnt and cost.seconds]
    if len(ratios) >= ENOUGH:
        factor = statistics.median(ratios)
        models = {name: Cost(factor * cost.seconds, cost.peak_mb) for name, cost in models.items()}
    return Costs({**models, **learnt}, shipped["versions"])


def costs_from_json(models: Any) -> dict[str, Cost]:
    """The costs that `costs_to_json` wrote.

    Raises:
        ValueError: it was something else.
    """
    if not isinstance(models, dict):
        raise ValueError(f"expected an object with models, found {type(models).__name__}")
    costs = {}
    for name, entry in models.items():
        match entry:
            case [int() | float() as seconds, int() | float() | None as peak] if 0 <= seconds < float("inf"):
                costs[name] = Cost(seconds, peak)
            case _:
                raise ValueError(f"expected seconds and MB for {name!r}, found {entry!r}")
    return costs


def costs_to_json(models: Mapping[str, Cost]) -> dict[str, list[float | None]]:
    """Costs as plain JSON types, rounded to what they are good for."""
    return {
        name: [round(cost.seconds, 2), None if cost.peak_mb is None else round(cost.peak_mb)]
        for name, cost in models.items()
    }
