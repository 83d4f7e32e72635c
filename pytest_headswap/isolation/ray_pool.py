"""Run models on a Ray cluster. A task is one model with all its checks, in a child process of the node that runs it.

Ray places the tasks, and runs a task again if its node or its process dies. The results of a model come back together.
"""

from __future__ import annotations

import importlib
import socket
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any

from pytest_headswap._text import format_bytes, pluralize
from pytest_headswap.harness.failure_text import ReportedError, error_message
from pytest_headswap.isolation.model_calls import CheckedModel, check_model
from pytest_headswap.isolation.process_error import ChildProcessDied
from pytest_headswap.isolation.subprocess_executor import SubprocessExecutor

_MAX_RETRIES = 3  # after the loss of a node or of a process of Ray
_REACH_SECONDS = 10
_LOCAL_STORE = 2**28  # bytes of shared memory for a cluster on this machine; results are small


class ClusterError(ReportedError):
    """The cluster cannot be used, or lost a model."""


class RayPool:
    """A pool whose processes are those of a Ray cluster."""

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
        self._cluster = cluster
        self._run = uuid.uuid4().hex
        self._make_executor = cluster.ray.put(make_executor)
        self._task = cluster.ray.remote(num_cpus=1, num_gpus=gpus, memory=memory, max_retries=_MAX_RETRIES)(
            _check_model
        )

    def __str__(self) -> str:
        return f"Ray cluster of {self._cluster}"

    def submit(self, zoo: str, model: str, checks: Sequence[str]) -> Any:
        """Return the task of checking a model."""
        return self._task.remote(self._make_executor, self._run, zoo, model, checks)

    def poll(self) -> None:
        """Do nothing: the cluster goes on by itself."""

    def wait(self, tasks: Collection[Any]) -> Any:
        """Return a task that is done. Wait for the first one."""
        done, _ = self._cluster.ray.wait(list(tasks), num_returns=1)
        return done[0]

    def result(self, task: Any) -> CheckedModel:
        """Wait for the calls of a task.

        Raises:
            ChildProcessDied: Ray lost the model, again and again.
            ClusterError: its node cannot check models.
        """
        ray = self._cluster.ray
        try:
            found: CheckedModel = ray.get(task)
        except ray.exceptions.RayTaskError as error:
            why = error_message(error.cause)
            raise ClusterError(f"a node of the Ray cluster cannot check models: {why}") from error
        except ray.exceptions.RayError as error:
            lost = f"the model's Ray task was lost, and {_MAX_RETRIES} times more when Ray ran it again"
            raise ChildProcessDied("crashed", f"{lost}: {error_message(error)}", str(error)) from error
        return found

    def close(self, tasks: Collection[Any]) -> None:
        """Cancel what still runs, and leave the cluster."""
        self._cluster.close(tasks)


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

    def close(self, tasks: Collection[Any]) -> None:
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
) -> CheckedModel:
    """Build and check a model; called in a process of the cluster."""
    if run not in _executors:
        _executors[run] = make_executor()
    return check_model(_executors[run], zoo, model, checks)
