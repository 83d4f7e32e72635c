"""How xdist hands out the tests: all checks of a model to one worker, each test of the project on its own.

Imported only when xdist runs; without xdist nobody comes here.
"""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController


class ModelScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped
    """`loadscope` with a model as the scope, that goes on after a crash.

    The original hands the test that crashed a worker out again and again, and can leave a new worker
    waiting for ever with a single test, since a worker starts a test only once it knows the next one.
    """

    def __init__(self, config: pytest.Config, log: Producer, zoos: frozenset[str]) -> None:
        super().__init__(config, log)
        self.zoos = zoos

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.split("::", 1)[0] in self.zoos or self.config.getvalue("dist") == "loadscope":
            return nodeid.rsplit("::", 1)[0]
        return nodeid

    def remove_node(self, node: WorkerController) -> str | None:
        """Forget a worker that ended; returns the test that it was running, if it crashed."""
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


def make_scheduler(config: pytest.Config, log: Producer, zoos: frozenset[str]) -> ModelScheduling | None:
    """Our scheduler for the ways of distribution that it can stand in for; the others are the user's own choice."""
    return ModelScheduling(config, log, zoos) if config.getvalue("dist") in ("load", "loadscope") else None
