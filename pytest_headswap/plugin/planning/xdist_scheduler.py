"""Schedule tests on xdist's workers: all checks of a model on one worker, the longest models first.

Starting with the longest models keeps workers from idling at the end. Each test of the project is scheduled separately.
Imported only if xdist runs.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController


class ModelScheduler(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped
    """`loadscope` with the model as the scope, able to continue after a crash.

    The original reassigns a test that crashed a worker again and again. It can leave a new worker waiting forever with
    a single test, since a worker starts a test only once it knows the next one. It also scans the list of all tests for
    each test, and everything that a worker has done whenever it finishes one more.
    """

    def __init__(self, config: pytest.Config, log: Producer, seconds: Mapping[str, float]) -> None:
        super().__init__(config, log)
        self.seconds = seconds
        """The expected seconds of each model, by scope."""
        self._places: dict[WorkerController, dict[str, int]] = {}
        self._sorted = False

    def _split_scope(self, nodeid: str) -> str:
        scope = nodeid.rsplit("::", 1)[0]
        return scope if scope in self.seconds or self.config.getvalue("dist") == "loadscope" else nodeid

    def _assign_work_unit(self, node: WorkerController) -> None:
        if not self._sorted:  # the queue is complete when its first item is taken
            self._sort()
        scope, unit = self.workqueue.popitem(last=False)
        self.assigned_work[node][scope] = unit
        if node not in self._places:
            ids = self.registered_collections[node]
            self._places[node] = {nodeid: place for place, nodeid in enumerate(ids)}
        node.send_runtest_some([self._places[node][nodeid] for nodeid, done in unit.items() if not done])

    def _sort(self) -> None:
        """Move the longest models first. The tests of the project keep their place."""
        scopes = list(self.workqueue)
        models = (scope for scope in scopes if scope in self.seconds)
        longest = iter(sorted(models, key=lambda scope: -self.seconds[scope]))
        for scope in scopes:
            self.workqueue.move_to_end(next(longest) if scope in self.seconds else scope)
        self._sorted = True

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """Mark a test as done, and drop its model after its last test."""
        super().mark_test_complete(node, item_index, duration)
        scope = self._split_scope(self.registered_collections[node][item_index])
        if all(self.assigned_work[node][scope].values()):
            del self.assigned_work[node][scope]

    def remove_node(self, node: WorkerController) -> str | None:
        """Remove a worker that ended; return the test that it was running, if it crashed."""
        unfinished = {scope: unit for scope, unit in self.assigned_work.pop(node).items() if not all(unit.values())}
        if not unfinished:
            return None
        unit = next(iter(unfinished.values()))
        crashed: str = next(nodeid for nodeid, done in unit.items() if not done)
        unit[crashed] = True
        self.workqueue.update((scope, unit) for scope, unit in unfinished.items() if not all(unit.values()))
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed

    def _reschedule(self, node: WorkerController) -> None:
        if node.shutting_down:
            return
        while self.workqueue and self._pending_of(self.assigned_work[node]) <= 2:
            self._assign_work_unit(node)
        if not self.workqueue:
            node.shutdown()


def make_scheduler(config: pytest.Config, log: Producer, seconds: Mapping[str, float]) -> ModelScheduler | None:
    """Return our scheduler if it can replace the chosen `--dist` mode; None leaves xdist's own scheduler."""
    return ModelScheduler(config, log, seconds) if config.getvalue("dist") in ("load", "loadscope") else None
