"""One part of the models for each of several machines, which agree on the parts without talking to each other.

A part depends on nothing but names and shipped costs. Each model has a part of its own by a hash of its name, and
goes there unless that is full; then it goes round by steps of its own until there is room. So a model that is added or
removed moves only a few others: those that it leaves without room, or leaves room for. (Handing each to the less loaded
of two is better balanced still, but there one model in a hundred moves every fourth.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_headswap.plugin.planning.costs import Costs

if TYPE_CHECKING:
    from pytest_headswap.harness.options import Shard
    from pytest_headswap.zoo.selection import Selected

_FULL = 105  # a part is full at so many per cent of the mean cost
_LARGE = 20  # a model of more than 1/20 of a part finds room only while there is much of it, and so comes first


def part_of(names: Sequence[str], costs: Costs, number: int, count: int) -> tuple[str, ...]:
    """The models of part `number` of `count`, the first being 1, in the order of `names`."""
    parts = split(names, costs, count)
    return tuple(name for name in names if parts[name] == number)


def split(names: Sequence[str], costs: Costs, count: int) -> dict[str, int]:
    """The number of the part of each model, from 1."""
    # whole numbers: sums of floats differ in their last bits from one Python to another
    cost = {name: max(1, round(1000 * costs[name].seconds)) for name in names}
    hashes = {name: hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest() for name in names}
    total = sum(cost.values())

    def place(name: str) -> tuple[int, bytes]:
        return (-cost[name] if cost[name] * count * _LARGE > total else 0, hashes[name])

    load = [0] * count
    parts = {}
    for name in sorted(names, key=place):
        part = _first_with_room(hashes[name], load, (_FULL * total) // (100 * count) - cost[name])
        load[part] += cost[name]
        parts[name] = part + 1
    return parts


def _first_with_room(hashed: bytes, load: Sequence[int], most: int) -> int:
    """The first part that holds no more than `most`, on the way that the hash sets; else the one that holds least."""
    count = len(load)
    part = int.from_bytes(hashed[:8], "big") % count
    step = 1 + int.from_bytes(hashed[8:16], "big") % max(1, count - 1)
    for _ in range(count):
        if load[part] <= most:
            return part
        part = (part + step) % count
    return min(range(count), key=load.__getitem__)


def part_of_each(selected: Selected, shard: Shard) -> Selected:
    """The models of one machine: of each zoo its part."""
    from pytest_headswap.plugin.planning.costs import expected_costs

    # shipped costs alone: all machines have to agree, whatever has been learnt on one of them
    return tuple((zoo, part_of(names, expected_costs(zoo.name), shard.number, shard.count)) for zoo, names in selected)
