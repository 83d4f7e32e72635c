"""Take a sample of the models: one of each family, or a stable part (`--headswap-sample`).

A part depends only on the hash of each name. Adding a model therefore moves no other model in or out of a percentage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_headswap.harness.sample import FAMILY, Sample
from pytest_headswap.plugin.planning.costs import shipped_costs

if TYPE_CHECKING:
    from pytest_headswap.zoo import Zoo
    from pytest_headswap.zoo.selection import Selection

_RANGE = 2**64


def sample_of_selection(selected: Selection, sample: Sample) -> Selection:
    """Return the sample of each zoo. It has at least one of the selected models."""
    return tuple((zoo, _sample(zoo, names, sample)) for zoo, names in selected)


def _sample(zoo: Zoo, names: Sequence[str], sample: Sample) -> tuple[str, ...]:
    order = sorted(names, key=_place)
    if sample.text == FAMILY:
        chosen = _one_of_each_family(zoo, order)
    elif sample.number:
        chosen = set(order[: sample.number])
    else:
        chosen = {name for name in order if _place(name) * 100 < sample.percentage * _RANGE} or set(order[:1])
    return tuple(name for name in names if name in chosen)


def _one_of_each_family(zoo: Zoo, order: Sequence[str]) -> set[str]:
    """Return the model of each family that costs least. A model without a family is one of its own."""
    costs = shipped_costs(zoo.name)
    chosen: dict[tuple[str, str], str] = {}
    for name in sorted(order, key=lambda name: costs[name].seconds):
        family = zoo[name].family
        chosen.setdefault((family, "" if family else name), name)
    return set(chosen.values())


def _place(name: str) -> int:
    """Return the place of a model between 0 and 2**64, by the hash of its name."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big")
