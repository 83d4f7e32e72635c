"""The scheduler assigns whole models, longest first. It neither repeats a crash nor leaves a worker waiting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("xdist")

from pytest_headswap.plugin.planning.xdist_scheduler import ModelScheduler, make_scheduler
from tests.work import calls_of


class Worker:
    """Replaces xdist's controller of a worker, and records the assigned tests."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.ids: list[str] = []
        self.queue: list[str] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        """Record tests by their index in the collection."""
        self.queue += [self.ids[index] for index in indices]

    def shutdown(self) -> None:
        """Record that no more tests follow."""
        self.shutting_down = True

    @property
    def may_run(self) -> bool:
        """Return whether a test can start: a worker must know the next test, or that there is none."""
        return len(self.queue) >= 2 or (bool(self.queue) and self.shutting_down)


class Config:
    """The options of xdist that its scheduler reads."""

    def __init__(self, dist: str = "load") -> None:
        self.dist = dist
        self.option = SimpleNamespace(loadscopereorder=False)

    def getvalue(self, name: str) -> Any:
        """As in pytest's Config."""
        return {"dist": self.dist, "tx": ["2*popen"]}[name]


SECONDS = {f"zoo::m{model}": 1.0 for model in range(6)}


def _scheduler(
    ids: list[str], dist: str = "load", seconds: dict[str, float] = SECONDS
) -> tuple[ModelScheduler, list[Worker]]:
    config: Any = Config(dist)
    log: Any = SimpleNamespace(loadscopesched=lambda *args: None)
    scheduler = ModelScheduler(config, log, seconds)
    workers = [Worker("a"), Worker("b")]
    for worker in workers:
        _join(scheduler, worker, ids)
    scheduler.schedule()
    return scheduler, workers


def _join(scheduler: ModelScheduler, worker: Worker, ids: list[str]) -> None:
    worker.ids = ids
    scheduler.add_node(worker)
    scheduler.add_node_collection(worker, ids)


def _run(
    scheduler: ModelScheduler, workers: list[Worker], crashing: frozenset[str]
) -> tuple[dict[str, str], list[str]]:
    """Run until no worker can run. Return the worker of each test, and the crashed tests in order."""
    ran: dict[str, str] = {}
    crashed: list[str] = []
    while any(worker.may_run for worker in workers):
        worker = next(worker for worker in workers if worker.may_run)
        test = worker.queue.pop(0)
        if test in crashing:
            workers.remove(worker)
            worker.shutting_down = True
            crashed.append(scheduler.remove_node(worker) or "nothing")
            fresh = Worker(f"{worker.gateway.id}+")
            workers.append(fresh)
            _join(scheduler, fresh, worker.ids)
            scheduler.schedule()
        else:
            assert test not in ran, "a test runs once"
            ran[test] = worker.gateway.id
            scheduler.mark_test_complete(worker, worker.ids.index(test))
    assert not any(worker.queue for worker in workers), "no worker is left waiting with a test"
    return ran, crashed


IDS = [f"zoo::m{model}::{check}" for model in range(6) for check in ("a", "b", "c")]


def test_the_checks_of_a_model_run_on_one_worker_and_all_run() -> None:
    ran, crashed = _run(*_scheduler(IDS), crashing=frozenset())
    assert set(ran) == set(IDS)
    assert crashed == []
    for model in range(6):
        assert len({ran[test] for test in IDS if f"::m{model}::" in test}) == 1


def test_tests_of_the_project_are_assigned_one_by_one() -> None:
    own = [f"test_own.py::test_{n}" for n in range(40)]
    ran, _ = _run(*_scheduler([*own, *IDS]), crashing=frozenset())
    assert set(ran) == {*own, *IDS}
    scheduler, _ = _scheduler(own)
    assert scheduler._split_scope(own[0]) == own[0]


def test_the_longest_models_are_assigned_first() -> None:
    seconds = {"zoo::m0": 1.0, "zoo::m1": 5.0, "zoo::m2": 3.0, "zoo::m3": 3.0, "zoo::m4": 9.0, "zoo::m5": 2.0}
    scheduler, workers = _scheduler(IDS, seconds=seconds)
    assert [worker.queue[0] for worker in workers] == ["zoo::m4::a", "zoo::m1::a"]
    assert list(scheduler.workqueue) == ["zoo::m2", "zoo::m3", "zoo::m5", "zoo::m0"], "equal models keep their order"


def test_the_projects_tests_keep_their_place_among_models() -> None:
    scheduler, _ = _scheduler(IDS, seconds={"zoo::m0": 1.0, "zoo::m1": 5.0, "zoo::m2": 3.0})
    scheduler.workqueue.clear()
    scheduler.workqueue.update(
        {scope: {} for scope in ("t.py::1", "zoo::m0", "t.py::2", "zoo::m1", "zoo::m2", "t.py::3")}
    )
    scheduler._sort()
    assert list(scheduler.workqueue) == ["t.py::1", "zoo::m1", "t.py::2", "zoo::m2", "zoo::m0", "t.py::3"]


def test_finished_work_is_dropped() -> None:
    scheduler, workers = _scheduler(IDS)
    _run(scheduler, workers, crashing=frozenset())
    assert list(scheduler.assigned_work.values()) == [{}, {}]
    assert scheduler.tests_finished


def test_the_work_per_assigned_test_does_not_grow_with_the_run() -> None:
    def assign_all(models: int) -> None:
        ids = [f"zoo::m{model}::{check}" for model in range(models) for check in "abcdefgh"]
        scheduler, workers = _scheduler(ids, seconds={f"zoo::m{model}": float(model % 97) for model in range(models)})
        places = {nodeid: place for place, nodeid in enumerate(ids)}
        done = 0
        while any(worker.may_run for worker in workers):
            for worker in workers:
                if worker.may_run:
                    scheduler.mark_test_complete(worker, places[worker.queue.pop(0)])
                    done += 1
        assert done == len(ids)

    assert calls_of(lambda: assign_all(1000)) < 2.2 * calls_of(lambda: assign_all(500))


def test_loadscope_keeps_the_projects_modules_together() -> None:
    scheduler, _ = _scheduler(IDS, dist="loadscope")
    assert scheduler._split_scope("test_own.py::test_1") == "test_own.py"
    assert scheduler._split_scope("zoo::m1::a") == "zoo::m1"


@pytest.mark.parametrize("crashing", [*IDS, "every second", "all"])
def test_a_crash_is_reported_once_and_everything_else_still_runs(crashing: str) -> None:
    chosen = {"every second": frozenset(IDS[::2]), "all": frozenset(IDS)}.get(crashing, frozenset({crashing}))
    ran, crashed = _run(*_scheduler(IDS), crashing=chosen)
    assert sorted(crashed) == sorted(chosen)
    assert set(ran) == set(IDS) - chosen


def test_a_worker_that_ends_without_work_did_not_crash_on_a_test() -> None:
    scheduler, workers = _scheduler(IDS[:3])
    idle = next(worker for worker in workers if not worker.queue)
    assert idle.shutting_down
    assert idle not in scheduler.nodes


@pytest.mark.parametrize("dist", ["loadfile", "loadgroup", "worksteal", "each", "no"])
def test_other_dist_modes_are_left_to_xdist(dist: str) -> None:
    config: Any = Config(dist)
    log: Any = SimpleNamespace()
    assert make_scheduler(config, log, SECONDS) is None
