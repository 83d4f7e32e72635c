"""The cost of a model's checks, measured once for a whole zoo and shipped in `costs/<zoo>.json`.

    {"versions": {"timm": "1.0.31", "torch": "2.14.1"}, "models": {"resnet18": [1.84, 640], ...}}

Each list holds the seconds of all checks and the peak memory in MiB. The numbers come from one machine and one set of
versions: they rank models by cost, but do not predict times elsewhere. `benchmarks/measure_costs.py` writes the file.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

FOLDER = Path(__file__).parent / "costs"
MIN_SAMPLES = 5
"""The number of measured models from which the speed of this machine can be estimated."""


_Amount = Annotated[float, msgspec.Meta(ge=0)]


class Cost(NamedTuple):
    """The cost of all checks of a model.

    Attributes:
        seconds: wall time on one worker.
        peak_mb: peak memory of the process in MiB: an upper bound, since earlier models count too. None: not
            measured.
    """

    seconds: _Amount
    peak_mb: _Amount | None = None

    def rounded(self) -> Cost:
        """Return the cost, rounded to its precision."""
        return Cost(round(self.seconds, 2), None if self.peak_mb is None else round(self.peak_mb))


@dataclass(frozen=True)
class Costs:
    """The costs of a zoo. A model that was not measured is assumed to cost the median."""

    models: Mapping[str, Cost] = field(default_factory=dict)
    """The measured costs."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """The versions of the shipped measurements."""

    @cached_property
    def median(self) -> Cost:
        """Return the median cost; one second if nothing was measured."""
        peaks = [cost.peak_mb for cost in self.models.values() if cost.peak_mb is not None]
        seconds = statistics.median(cost.seconds for cost in self.models.values()) if self.models else 1.0
        return Cost(seconds, statistics.median(peaks) if peaks else None)

    def __getitem__(self, model: str) -> Cost:
        return self.models.get(model, self.median)


def expected_costs(zoo_name: str, measured: Mapping[str, Cost] | None = None) -> Costs:
    """Return the shipped costs of a zoo (most have none), overridden by those `measured` in runs on this machine.

    Shipped costs are scaled by the models that both sources cover, so that they match this machine and its past
    options.
    """
    measured = measured or {}
    path = FOLDER / f"{zoo_name}.json"
    if not zoo_name.isidentifier() or not path.is_file():  # a zoo's name may be a file path
        return Costs(dict(measured))
    shipped = msgspec.json.decode(path.read_bytes(), type=Costs)
    models = shipped.models
    ratios = [
        measured[name].seconds / cost.seconds for name, cost in models.items() if name in measured and cost.seconds
    ]
    if len(ratios) >= MIN_SAMPLES:
        factor = statistics.median(ratios)
        models = {name: Cost(factor * cost.seconds, cost.peak_mb) for name, cost in models.items()}
    return Costs({**models, **measured}, shipped.versions)
