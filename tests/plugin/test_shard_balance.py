"""The shards of a zoo are complete, disjoint, balanced, and stable when the zoo changes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter

import pytest

from pytest_headswap.plugin.planning.costs import Cost, Costs, shipped_costs
from pytest_headswap.plugin.planning.shards import assign_shards, models_of_shard

NAMES = tuple(f"model_{number:04}" for number in range(1400))


def _long_tailed() -> Costs:
    """Return costs as in a real zoo: most are small, and a few are a hundred times as large."""
    generator = random.Random(0)
    return Costs({name: Cost(min(120.0, generator.lognormvariate(0.7, 1.1))) for name in NAMES})


ZOOS = {"long-tailed": _long_tailed(), "unknown": Costs()}
if shipped_costs("timm").models:
    ZOOS["timm"] = shipped_costs("timm")


def _names(costs: Costs) -> tuple[str, ...]:
    return tuple(costs.models) or NAMES


def _loads(parts: dict[str, int], costs: Costs) -> Counter[int]:
    loads = Counter[int]()
    for name, part in parts.items():
        loads[part] += costs[name].seconds  # type: ignore[assignment]  # counts may be fractions
    return loads


@pytest.mark.parametrize("count", [1, 2, 3, 8, 32])
@pytest.mark.parametrize("costs", ZOOS.values(), ids=ZOOS.keys())
def test_the_shards_cover_the_zoo_and_the_slowest_is_near_the_mean(costs: Costs, count: int) -> None:
    names = _names(costs)
    parts = [models_of_shard(names, costs, number, count) for number in range(1, count + 1)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert all(list(part) == sorted(part) for part in parts), "in the order of the names"
    loads = _loads(assign_shards(names, costs, count), costs)
    assert len(loads) == count
    longest = max(costs[name].seconds for name in names)  # no part can be shorter than that
    assert max(loads.values()) <= max(1.06 * sum(loads.values()) / count, longest)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("costs", ZOOS.values(), ids=ZOOS.keys())
def test_adding_or_removing_one_model_in_a_hundred_moves_few_others(costs: Costs, seed: int) -> None:
    names = _names(costs)
    gone = set(random.Random(seed).sample(names, len(names) // 100))
    before = assign_shards(names, costs, 8)
    after = assign_shards([name for name in names if name not in gone], costs, 8)
    moved = [name for name, part in after.items() if before[name] != part]
    assert len(moved) < 0.03 * len(names)
    new = [f"new_{number}" for number in range(len(gone))]
    after = assign_shards([*names, *new], costs, 8)
    assert len([name for name, part in before.items() if after[name] != part]) < 0.03 * len(names)


def test_shards_do_not_depend_on_the_order_of_the_names() -> None:
    costs = ZOOS["long-tailed"]
    assert assign_shards(NAMES, costs, 8) == assign_shards(NAMES[::-1], costs, 8)


@pytest.mark.parametrize("count", [8, 100, 1000])
def test_few_models_on_many_machines_are_spread_and_leave_shards_empty(count: int) -> None:
    names = NAMES[:5]
    parts = assign_shards(names, Costs(), count)
    assert len(set(parts.values())) == 5
    assert models_of_shard(names, Costs(), next(n for n in range(1, count + 1) if n not in parts.values()), count) == ()


def test_a_model_that_costs_more_than_all_others_has_its_own_shard() -> None:
    costs = Costs({"huge": Cost(1000), **{name: Cost(1) for name in NAMES[:100]}})
    parts = assign_shards(list(costs.models), costs, 4)
    assert Counter(parts.values())[parts["huge"]] == 1


def test_models_without_cost_and_with_odd_names_are_assigned() -> None:
    costs = Costs({"zero": Cost(0), "ä::b %": Cost(0), "\udcff": Cost(0)})
    assert set(assign_shards(list(costs.models), costs, 2).values()) == {1, 2}
    assert assign_shards([], costs, 3) == {}


def test_processes_with_different_hash_seeds_agree() -> None:
    code = (
        "from pytest_headswap.plugin.planning.shards import models_of_shard\n"
        "from pytest_headswap.plugin.planning.costs import Costs\n"
        "print(models_of_shard([f'model_{n:04}' for n in range(1400)], Costs(), 2, 8))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert outputs == {str(models_of_shard(NAMES, Costs(), 2, 8))}
