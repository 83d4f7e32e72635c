"""Run models on a Ray cluster. A task is one model with all its checks, in a child process of the node that runs it.

Ray places the tasks, and runs a task again if its node or its process dies. The results of a model come back together.
"""

from __future__ import annotations

import importlib
import io
import socket
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_headswap._text import format_bytes, pluralize
from pytest_headswap.harness.failure_text import ReportedError, error_message
from pytest_headswap.isolation.child_main import RecordedWarning, call_and_record, record_warnings
from pytest_headswap.isolation.executor import BuildReply, CheckReply
from pytest_headswap.isolation.process_error import ChildProcessDied
from pytest_headswap.isolation.remote_exception import RemoteException
from pytest_headswap.isolation.subprocess_executor import SubprocessExecutor

if TYPE_CHECKING:
    from pytest_headswap.checks import Check
    from pytest_headswap.zoo import Zoo

_MAX_RETRIES = 3  # after the loss of a node or of a process of Ray
_REACH_SECONDS = 10
_LOCAL_STORE = 2**28  # bytes of shared memory for a cluster on this machine; results are small

ModelKey = tuple[str, str]
"""The names of a zoo and a model."""


class ClusterError(ReportedError):
    """The cluster cannot be used, or lost a model."""


@dataclass(frozen=True)
class _Call:
    """What a call of the node's executor returned or raised, and what it printed."""

    value: BuildReply | CheckReply | None
    exception: RemoteException | None
    stdout: str
    stderr: str
    warnings: tuple[RecordedWarning, ...]
    seconds: float

    def replay(self) -> Any:
        """Print, warn, and return or raise as the call did."""
        sys.stdout.write(self.stdout)
        sys.stderr.write(self.stderr)
        for recorded in self.warnings:
            warnings.warn_explicit(recorded.message, recorded.category, recorded.filename, recorded.line)
        exception: Any = self.exception.rebuild() if self.exception is not None else None
        if self.value is None and exception is not None:
            raise exception
        if isinstance(self.value, CheckReply):
            return replace(self.value, finding=replace(self.value.finding, exception=exception))
        return self.value


def _record(executor: SubprocessExecutor, call: Callable[[], Any]) -> _Call:
    started = time.monotonic()
    stdout, stderr = io.StringIO(), io.StringIO()
    with record_warnings() as recorded, redirect_stdout(stdout), redirect_stderr(stderr):
        value, exception = call_and_record(call, executor.in_process.format_failure)
    seconds = time.monotonic() - started
    return _Call(value, exception, stdout.getvalue(), stderr.getvalue(), tuple(recorded), seconds)


@dataclass(frozen=True)
class _CheckedModel:
    """The calls that built, checked and released a model."""

    built: _Call
    checked: dict[str, _Call]
    released: _Call | None = None


class RayExecutor:
    """An executor that takes the replies from tasks of a Ray cluster.

    Attributes:
        cluster: the cluster.
    """

    runs_in_subprocess = True

    def __init__(
        self, cluster: RayCluster, make_executor: Callable[[], SubprocessExecutor], memory: int, gpus: float
    ) -> None:
        """Prepare to submit models.

        Args:
            cluster: the cluster.
            make_executor: picklable function that returns the executor in a process of the cluster.
            memory, gpus: the bytes and the part of a GPU that a node must have for a model.

        Raises:
            ClusterError: no node has that. Ray would wait for one, without a word.
        """
        if not cluster.fits(memory, gpus):
            needs = f"a CPU, {format_bytes(memory)} of memory{' and a GPU' if gpus else ''}"
            raise ClusterError(f"no node of the cluster has {needs} for a model: lower --headswap-memory-limit")
        self.cluster = cluster
        self._seconds = 0.0
        self._run = uuid.uuid4().hex
        self._make_executor = cluster.ray.put(make_executor)
        self._task = cluster.ray.remote(num_cpus=1, num_gpus=gpus, memory=memory, max_retries=_MAX_RETRIES)(
            _check_model
        )
        self._checks: dict[ModelKey, list[str]] = {}
        self._tasks: dict[ModelKey, Any] = {}
        self._key: ModelKey = ("", "")
        self._current: _CheckedModel | None = None

    def submit(self, zoo: str, model: str, checks: Sequence[str]) -> None:
        """Have the cluster check a model."""
        self._checks.setdefault((zoo, model), list(checks))
        self._tasks[zoo, model] = self._task.remote(self._make_executor, self._run, zoo, model, list(checks))

    def completed(self) -> Iterator[ModelKey]:
        """Yield each submitted model as soon as its results are there."""
        waiting = {task: key for key, task in self._tasks.items()}
        while waiting:
            done, _ = self.cluster.ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done[0])

    def build(self, zoo: Zoo, model: str) -> BuildReply:
        """Return the reply of the cluster. A model that is built once more, such as for a rerun, is submitted again."""
        self._key = zoo.name, model
        if self._key not in self._tasks:
            self.submit(*self._key, self._checks.get(self._key, []))
        self._current = self._result()
        reply: BuildReply = self._replay(self._current.built)
        return reply

    def check(self, check: Check) -> CheckReply:
        """Return the reply of the cluster. A check that runs once more is submitted again, with its model."""
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
        """Return how long the calls since the last time took on their node."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def close(self) -> None:
        """Cancel what still runs, and leave the cluster."""
        self.cluster.close(list(self._tasks.values()))
        self._tasks.clear()

    def _result(self) -> _CheckedModel:
        """Wait for the results of the current model.

        Raises:
            ChildProcessDied: Ray lost the model, again and again.
            ClusterError: its node cannot check models.
        """
        task = self._tasks.pop(self._key)
        try:
            found: _CheckedModel = self.cluster.ray.get(task)
        except self.cluster.ray.exceptions.RayTaskError as error:
            why = error_message(error.cause)
            raise ClusterError(f"a node of the Ray cluster cannot check models: {why}") from error
        except self.cluster.ray.exceptions.RayError as error:
            lost = f"the model's Ray task was lost, and {_MAX_RETRIES} times more when Ray ran it again"
            raise ChildProcessDied("crashed", f"{lost}: {error_message(error)}", str(error)) from error
        return found

    def _replay(self, call: _Call) -> Any:
        self._seconds += call.seconds
        return call.replay()


class RayCluster:
    """A connection to a Ray cluster: one at an address, or a new one on this machine.

    Attributes:
        ray: the module.
    """

    def __init__(self, address: str) -> None:
        """Connect to the cluster at `address`, or start one if it is empty.

        Raises:
            ClusterError: there is none at this address.
        """
        ray = self.ray = importlib.import_module("ray")
        self._own = not ray.is_initialized()
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self._own and address:
                _reach(address)
                ray.init(address, **quiet)
            elif self._own:
                ray.init(include_dashboard=False, object_store_memory=_LOCAL_STORE, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            where = f"at {address}" if address else "on this machine"
            raise ClusterError(f"no Ray cluster can be reached {where}: {error_message(error)}") from error
        self._nodes: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def __str__(self) -> str:
        counts = {kind: sum(node.get(kind, 0) for node in self._nodes) for kind in ("CPU", "GPU")}
        listed = [f"{count:g} {kind}s" for kind, count in counts.items() if count]
        return f"{pluralize(len(self._nodes), 'node')} with {' and '.join(listed)}"

    @property
    def gpu_share(self) -> float:
        """Return the part of a GPU for a model where a node has the least for each of its CPUs; 0 without GPUs."""
        shares = [node["GPU"] / node["CPU"] for node in self._nodes if node.get("CPU") and node.get("GPU")]
        return min([1.0, *shares]) if shares else 0.0

    @property
    def memory_share(self) -> int:
        """Return the bytes of memory for a model where a node has the least for each of its CPUs."""
        shares = [node["memory"] / node["CPU"] for node in self._nodes if node.get("CPU") and node.get("memory")]
        return int(min(shares, default=0))

    def fits(self, memory: int, gpus: float) -> bool:
        """Return whether a node has a CPU, the bytes of memory, and the part of a GPU."""
        needs = {"CPU": 1, "memory": memory, "GPU": gpus}
        return any(all(node.get(kind, 0) >= amount for kind, amount in needs.items()) for node in self._nodes)

    def close(self, tasks: Sequence[Any]) -> None:
        """End the tasks. Disconnect, unless somebody else connected."""
        if self._own:
            self.ray.shutdown()
            return
        for task in tasks:
            self.ray.cancel(task, force=True)


def _reach(address: str) -> None:
    """Raise OSError at once if nothing listens at `HOST:PORT`. Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host.rpartition("/")[2], int(port)), _REACH_SECONDS).close()


_executors: dict[str, SubprocessExecutor] = {}
"""In a process of the cluster, the executor of each run. It serves the models that Ray sends to this process."""


def _check_model(
    make_executor: Callable[[], SubprocessExecutor], run: str, zoo: str, model: str, checks: Sequence[str]
) -> _CheckedModel:
    """Build and check a model; called in a process of the cluster."""
    if run not in _executors:
        _executors[run] = make_executor()
    executor = _executors[run]
    in_process = executor.in_process
    built = _record(executor, partial(executor.build, in_process.zoos[zoo], model))
    if built.value is None:
        return _CheckedModel(built, {})
    assert isinstance(built.value, BuildReply)
    checked = {}
    for name in checks:
        check = in_process.checks[name]
        if not built.value.reason or (built.value.without_head and not check.needs_head):
            checked[name] = _record(executor, partial(executor.check, check))
    return _CheckedModel(built, checked, _record(executor, executor.release))
