"""Split the models between machines, which agree on their shards without communicating.

A split depends only on names and shipped costs. The hash of a model's name gives it a home shard. If that is full, the
model tries other shards in steps set by the hash. Adding or removing a model therefore moves few others: those that it
displaces or makes room for. (Placing each model on the less loaded of two shards would balance better. But then adding
one model in a hundred would move every fourth model.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_headswap.plugin.planning.costs import Costs, shipped_costs

if TYPE_CHECKING:
    from pytest_headswap.harness.options import Shard
    from pytest_headswap.zoo.selection import Selection

_FULL = 105  # percentage of the mean cost at which a shard is full
_LARGE_SHARE = 20  # a model that takes more than 1/20 of a shard is placed first, while there is room


def models_of_shard(names: Sequence[str], costs: Costs, number: int, count: int) -> tuple[str, ...]:
    """Return the models of shard `number` of `count`, numbered from 1, in the order of `names`."""
    parts = assign_shards(names, costs, count)
    return tuple(name for name in names if parts[name] == number)


def assign_shards(names: Sequence[str], costs: Costs, count: int) -> dict[str, int]:
    """Return the shard number of each model, from 1."""
    # integers: float sums differ in their last bits between Python versions
    cost = {name: max(1, round(1000 * costs[name].seconds)) for name in names}
    hashes = {name: hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest() for name in names}
    total = sum(cost.values())

    def place(name: str) -> tuple[int, bytes]:
        return (-cost[name] if cost[name] * count * _LARGE_SHARE > total else 0, hashes[name])

    load = [0] * count
    parts = {}
    for name in sorted(names, key=place):
        part = _first_that_fits(hashes[name], load, (_FULL * total) // (100 * count) - cost[name])
        load[part] += cost[name]
        parts[name] = part + 1
    return parts


def _first_that_fits(hashed: bytes, load: Sequence[int], limit: int) -> int:
    """Return the first shard in the order set by the hash whose load is at most `limit`, or else the least loaded."""
    count = len(load)
    part = int.from_bytes(hashed[:8], "big") % count
    step = 1 + int.from_bytes(hashed[8:16], "big") % max(1, count - 1)
    for _ in range(count):
        if load[part] <= limit:
            return part
        part = (part + step) % count
    return min(range(count), key=load.__getitem__)


def shard_of_selection(selected: Selection, shard: Shard) -> Selection:
    """Return the models of one machine: its shard of each zoo."""
    return tuple(
        (zoo, models_of_shard(names, shipped_costs(zoo.name), shard.number, shard.count)) for zoo, names in selected
    )
