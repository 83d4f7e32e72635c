"""The cost of a model's checks, measured once for a whole zoo and shipped in `costs/<zoo>.json`.

    {"versions": {"timm": "1.0.31", "torch": "2.14.1"}, "models": {"resnet18": [1.84, 640], ...}}

Each list holds the seconds of all checks and the peak memory in MiB, or null if it was not measured. The numbers come
from one machine and one set of versions: they rank models by cost, but do not predict times elsewhere.
`benchmarks/measure_costs.py` writes the file.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from pytest_headswap.case.options import CaseOptions
from pytest_headswap.plugin.settings import Settings
from pytest_headswap.results.ids import model_id

FOLDER = Path(__file__).parent / "costs"


_Amount = Annotated[float, msgspec.Meta(ge=0)]


class Cost(NamedTuple):
    """The cost of all checks of a model.

    Attributes:
        seconds: wall time on one worker.
        peak_mb: peak memory of the process in MiB; None if it was not measured. It is an upper bound, because memory
            that earlier models left behind counts too.
    """

    seconds: _Amount
    peak_mb: _Amount | None = None

    def rounded(self) -> Cost:
        """Return the cost, rounded to its precision."""
        return Cost(round(self.seconds, 2), None if self.peak_mb is None else round(self.peak_mb))


@dataclass(frozen=True)
class Costs:
    """The costs of a zoo by model. A model that was not measured is assumed to take the median time.

    Its peak memory is unknown.
    """

    models: Mapping[str, Cost] = field(default_factory=dict)

    @cached_property
    def median(self) -> Cost:
        """Return the median time; one second if nothing was measured."""
        return Cost(statistics.median(cost.seconds for cost in self.models.values()) if self.models else 1.0)

    def __getitem__(self, model: str) -> Cost:
        return self.models.get(model, self.median)


def shipped_costs(zoo_name: str) -> Costs:
    """Return the shipped costs of a zoo; empty for most zoos."""
    path = FOLDER / f"{zoo_name}.json"
    if not zoo_name.isidentifier() or not path.is_file():  # a zoo's name may be a file path
        return Costs()
    return msgspec.json.decode(path.read_bytes(), type=Costs)


def model_seconds(settings: Settings) -> dict[str, float]:
    """Return the expected seconds of each model of this run, by id, such as `timm::resnet18`."""
    seconds: dict[str, float] = {}
    for zoo, models in settings.this_shard:
        costs = shipped_costs(zoo.name)
        seconds |= {model_id(zoo.name, model): costs[model].seconds for model in models}
    return seconds


def known_oversized(settings: Settings, max_bytes: int) -> dict[tuple[str, str], float]:
    """Return the models whose measured peak memory exceeds `max_bytes`: zoo and model, with the peak in MiB.

    Empty if the user chose the evidence: the peaks are those of the default.
    """
    if settings.options.evidence != CaseOptions().evidence:
        return {}
    oversized: dict[tuple[str, str], float] = {}
    for zoo, models in settings.this_shard:
        costs = shipped_costs(zoo.name)
        for model in models:
            peak_mb = costs[model].peak_mb
            if peak_mb is not None and peak_mb * 2**20 > max_bytes:
                oversized[zoo.name, model] = peak_mb
    return oversized
