"""Take the replies for models from a pool of processes, which check several models at the same time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from pytest_headswap.isolation.executor import BuildReply, CheckReply
from pytest_headswap.isolation.model_calls import CheckedModel, ModelKey, RecordedCall

if TYPE_CHECKING:
    from pytest_headswap.checks import Check
    from pytest_headswap.zoo import Zoo


class Pool(Protocol):
    """Processes that check models. Its text says how many. A task is one model with all its checks."""

    def submit(self, zoo: str, model: str, checks: Sequence[str]) -> Any:
        """Return the task of checking a model."""

    def poll(self) -> None:
        """Go on with tasks that wait for this process. Called between other tests."""

    def wait(self, tasks: Collection[Any]) -> Any:
        """Return a task that is done. Wait for the first one."""

    def result(self, task: Any) -> CheckedModel:
        """Wait for the calls of a task.

        Raises:
            ChildProcessDied: the pool lost the model, again and again.
            ReportedError: the pool cannot check models.
        """

    def close(self, tasks: Collection[Any]) -> None:
        """End tasks that still run, and release all resources."""


class PoolExecutor:
    """An executor that takes the replies from a pool.

    Attributes:
        pool: the pool.
    """

    runs_in_subprocess = True

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._seconds = 0.0
        self._checks: dict[ModelKey, list[str]] = {}
        self._tasks: dict[ModelKey, Any] = {}
        self._key: ModelKey = ("", "")
        self._current: CheckedModel | None = None

    def submit(self, zoo: str, model: str, checks: Sequence[str]) -> None:
        """Have the pool check a model."""
        self._checks.setdefault((zoo, model), list(checks))
        self._tasks[zoo, model] = self.pool.submit(zoo, model, list(checks))

    def completed(self) -> Iterator[ModelKey]:
        """Yield each submitted model as soon as its results are there."""
        waiting = {task: key for key, task in self._tasks.items()}
        while waiting:
            yield waiting.pop(self.pool.wait(waiting.keys()))

    def build(self, zoo: Zoo, model: str) -> BuildReply:
        """Return the reply of the pool. A model that is built once more, such as for a rerun, is submitted again."""
        self._key = zoo.name, model
        if self._key not in self._tasks:
            self.submit(*self._key, self._checks.get(self._key, []))
        self._current = self._result()
        reply: BuildReply = self._replay(self._current.built)
        return reply

    def check(self, check: Check) -> CheckReply:
        """Return the reply of the pool. A check that runs once more is submitted again, with its model."""
        assert self._current is not None, "a model is built before it is checked"
        if check.name not in self._current.checked:
            self.submit(*self._key, [check.name])
            again = self._result()
            if again.built.value is None:
                self._replay(again.built)  # raises
            self._current = replace(again, checked={**self._current.checked, **again.checked})
        reply: CheckReply = self._replay(self._current.checked.pop(check.name))
        return reply

    def release(self) -> None:
        """Forget the replies. Raises if the model crashed while it was released."""
        current, self._current = self._current, None
        if current is not None and current.released is not None:
            self._replay(current.released)

    def take_seconds(self) -> float:
        """Return how long the calls since the last time took in the pool."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def close(self) -> None:
        """End what still runs, and close the pool."""
        self.pool.close(list(self._tasks.values()))
        self._tasks.clear()

    def _result(self) -> CheckedModel:
        return self.pool.result(self._tasks.pop(self._key))

    def _replay(self, call: RecordedCall) -> Any:
        self._seconds += call.seconds
        return call.replay()
