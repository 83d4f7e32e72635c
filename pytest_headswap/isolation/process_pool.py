"""Check models in several processes of this machine. Each has an executor of its own, with a child process for models.

A forked process shares the memory of what pytest has imported, so that libraries are imported once.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import register_after_fork
from typing import NoReturn

from pytest_headswap._devices import WORKER
from pytest_headswap._text import pluralize
from pytest_headswap.isolation.child_process import StartMethod, main_hidden
from pytest_headswap.isolation.interrupts import end_with_parent, interrupts_blocked
from pytest_headswap.isolation.model_calls import CheckedModel, RecordedCall, check_model
from pytest_headswap.isolation.process_error import ChildProcessDied
from pytest_headswap.isolation.remote_exception import RemoteException
from pytest_headswap.isolation.subprocess_executor import SubprocessExecutor

_MAX_RETRIES = 3  # after the loss of a process of the pool
_CLOSE_SECONDS = 10.0  # time for a process of the pool to end the processes of its model


@dataclass(eq=False)
class _Task:
    """A model with its checks, and its calls once they are there."""

    zoo: str
    model: str
    checks: Sequence[str]
    losses: int = 0
    calls: CheckedModel | None = None

    @property
    def is_done(self) -> bool:
        return self.calls is not None or self.losses > _MAX_RETRIES


class ProcessPool:
    """A pool of processes of this machine. If one dies, its model runs again in a new one."""

    def __init__(self, count: int, start_method: StartMethod, make_executor: Callable[[], SubprocessExecutor]) -> None:
        """Start the processes. `make_executor` is called in each, and has to be picklable if they are spawned."""
        self._start_method: StartMethod = start_method
        self._make_executor = make_executor
        self._waiting: deque[_Task] = deque()
        self._done: deque[_Task] = deque()
        self._processes = [_PoolProcess(number, start_method, make_executor) for number in range(count)]

    def __str__(self) -> str:
        return pluralize(len(self._processes), "process", "processes")

    def submit(self, zoo: str, model: str, checks: Sequence[str]) -> _Task:
        """Return the task of checking a model."""
        task = _Task(zoo, model, checks)
        self._waiting.append(task)
        self.poll()
        return task

    def poll(self, seconds: float | None = 0) -> None:
        """Take the results that are there, and give the next models to idle processes.

        Args:
            seconds: how long to wait for a result; None: until there is one.
        """
        busy = {process.requests: process for process in self._processes if process.task is not None}
        for requests in wait(list(busy), seconds) if busy else ():
            assert isinstance(requests, Connection)
            process = busy[requests]
            task = process.finish()
            if task.is_done:
                self._done.append(task)
            else:
                self._waiting.appendleft(task)
            if process.has_ended:
                place = self._processes.index(process)
                self._processes[place] = _PoolProcess(place, self._start_method, self._make_executor)
        for process in self._processes:
            if process.task is None and self._waiting:
                process.begin(self._waiting.popleft())

    def wait(self, tasks: Collection[_Task]) -> _Task:
        """Return a task that is done. Wait for the first one."""
        while True:
            for task in self._done:
                if task in tasks:
                    return task
            self.poll(None)

    def result(self, task: _Task) -> CheckedModel:
        """Wait for the calls of a task.

        Raises:
            ChildProcessDied: processes died with this model, again and again.
        """
        while not task.is_done:
            self.poll(None)
        self._done.remove(task)
        if task.calls is None:
            lost = f"the process that ran the model's own one died, and {_MAX_RETRIES} times more when it ran again"
            raise ChildProcessDied("crashed", lost)
        return task.calls

    def close(self, tasks: Collection[_Task]) -> None:  # noqa: ARG002 - they end with their processes
        """End the processes, with the models that still run."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.close()
        self._processes = []


class _PoolProcess:
    """A process of a pool, the model that it checks, and this end of its pipe."""

    def __init__(self, number: int, start_method: StartMethod, make_executor: Callable[[], SubprocessExecutor]) -> None:
        self.task: _Task | None = None
        self.has_ended = False
        self.requests, other_end = Pipe()
        register_after_fork(self.requests, Connection.close)  # a fork's copy would keep the pipe open
        self._process: BaseProcess = get_context(start_method).Process(  # type: ignore[attr-defined]
            target=_serve, args=(number, make_executor, other_end)
        )
        with interrupts_blocked(), main_hidden() if start_method == "spawn" else nullcontext():
            self._process.start()
        other_end.close()

    def begin(self, task: _Task) -> None:
        """Have the process check a model."""
        self.task = task
        with suppress(OSError):  # it has ended, and `finish` says so
            self.requests.send((task.zoo, task.model, task.checks))

    def finish(self) -> _Task:
        """Return the task, with the calls that the process sent, or with one loss more if it has ended."""
        task, self.task = self.task, None
        assert task is not None
        try:
            task.calls = self.requests.recv()
        except (EOFError, OSError):
            task.losses += 1
            self.has_ended = True
            self.close()
        return task

    def terminate(self) -> None:
        """Ask the process to end."""
        self._process.terminate()

    def close(self) -> None:
        """Wait until the process has ended; kill it if it does not."""
        self._process.join(_CLOSE_SECONDS)
        self._process.kill()
        self._process.join()
        self.requests.close()


def _serve(number: int, make_executor: Callable[[], SubprocessExecutor], requests: Connection) -> NoReturn:
    """Check the models that are asked for. The process ends with pytest, and never returns into its frames."""
    executor: SubprocessExecutor | None = None

    def end(*_: object) -> None:
        if executor is not None:
            executor.close()
        os._exit(0)

    end_with_parent()
    register_after_fork(requests, Connection.close)  # pytest is to see that this process has ended
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which ends this process
    signal.signal(signal.SIGTERM, end)
    os.environ[WORKER] = str(number)
    try:
        failure = None
        try:
            executor = make_executor()
        except BaseException as error:  # noqa: BLE001 - a conftest may raise anything, SystemExit too
            failure = RemoteException.capture(error)
        while True:
            zoo, model, checks = requests.recv()
            if executor is None:
                requests.send(CheckedModel(RecordedCall(None, failure, "", "", (), 0.0), {}))
            else:
                requests.send(check_model(executor, zoo, model, checks))
    except (EOFError, OSError):
        pass  # pytest has ended
    finally:
        end()
        os._exit(70)
