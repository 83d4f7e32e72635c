"""Run models in a child process: a crash, hang, flood of output or memory blow-up affects only that model.

The pytest process, or an xdist worker, forks a runner and sends it one request at a time (`child_main.py`). While it
waits for the reply, it monitors the runner's time, memory and output.
"""

from __future__ import annotations

import codecs
import os
import signal
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

import psutil

from pytest_headswap.harness.memory_budget import held
from pytest_headswap.isolation import process_error
from pytest_headswap.isolation.child_main import STACK_SIGNAL, Reply, Request, run_child
from pytest_headswap.isolation.in_process_executor import LocalBench

MOST_OUTPUT = 2**20
"""The bytes that a model may print to stdout, and again to stderr."""

_INTERVAL = 0.05  # seconds between two looks at a busy runner
_CHUNK = 2**16
_STACK_SECONDS = 1.0  # time for a runner to write its stack


@dataclass(frozen=True)
class Limits:
    """The time and memory that a model may take."""

    seconds: float
    bytes: int


class Runner:
    """A forked child process and this end of its pipes."""

    def __init__(self, bench: LocalBench) -> None:
        ours, theirs = Pipe()
        ends = [os.pipe() for _ in range(2)]
        self._stack = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        parent = os.getpid()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # about threads; the child needs none
                self.pid = os.fork()
            if self.pid == 0:
                ours.close()
                for read, _ in ends:
                    os.close(read)
                run_child(bench, theirs, (ends[0][1], ends[1][1]), self._stack, parent)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        for read, write in ends:
            os.close(write)
            os.set_blocking(read, False)
        self._requests: Connection = ours
        self._outputs = {read: stream for (read, _), stream in zip(ends, ("stdout", "stderr"), strict=True)}
        self._decoders = {read: codecs.getincrementaldecoder("utf-8")("replace") for read in self._outputs}
        self._room = dict.fromkeys(self._outputs, MOST_OUTPUT)
        self._status: int | None = None
        self.before = 0
        self.peak = 0

    def begin_model(self) -> None:
        """Prepare for the next model: reset its output allowance and take the current memory as its baseline."""
        self._room = dict.fromkeys(self._outputs, MOST_OUTPUT)
        self.before = self.peak = held(self.pid)

    def ask(self, request: Request, doing: str, left: float, limits: Limits) -> Reply:
        """Send a request and return the reply; `left` is the number of seconds to wait.

        Raises:
            LostError: the runner died, or was killed for exceeding a limit.
        """
        try:
            return self._ask(request, doing, left, limits)
        except BaseException:  # including Ctrl-C: nobody waits for the reply any more
            self.close()
            raise

    def _ask(self, request: Request, doing: str, left: float, limits: Limits) -> Reply:
        until = time.monotonic() + left
        with suppress(OSError):  # the runner is already dead
            self._requests.send(request)
        while True:
            left = until - time.monotonic()
            ready = wait([self._requests, *self._outputs], max(0.0, min(_INTERVAL, left)))
            if self._requests in ready and (reply := self._received()) is not None:
                self._relay()
                return reply
            self._relay()
            if self.ended():
                self._relay()
                assert self._status is not None
                raise process_error.died(self._status, doing, self._read_stack(), self._taken_mb)
            self._look_at_memory()
            if self._taken > limits.bytes:
                raise process_error.too_large(self._taken, limits.bytes, doing, self._asked_stack())
            if left <= 0:
                raise process_error.too_slow(limits.seconds, doing, self._asked_stack(), self._taken_mb)

    @property
    def _taken(self) -> int:
        return self.peak - self.before

    @property
    def _taken_mb(self) -> float:
        return round(self._taken / 2**20, 1)

    def _look_at_memory(self) -> None:
        with suppress(psutil.Error):
            self.peak = max(self.peak, held(self.pid))

    def _received(self) -> Reply | None:
        try:
            reply: Reply = self._requests.recv()
        except (EOFError, OSError):
            self._wait_for_end()
            return None
        return reply

    def ended(self) -> bool:
        """Return whether the process has ended."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
        return self._status is not None

    def _wait_for_end(self) -> None:
        """Wait until the process ends, now that its pipe is closed; kill it if a model closed the pipe."""
        until = time.monotonic() + 1.0
        while not self.ended():
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.001)

    def _relay(self) -> None:
        """Print the runner's output, so that pytest captures it."""
        for file, name in list(self._outputs.items()):
            for _ in range(16):  # endless output must not delay the checks of time and memory
                try:
                    data = os.read(file, _CHUNK)
                except BlockingIOError:
                    break
                if not data:
                    os.close(file)
                    del self._outputs[file]
                    break
                self._print(file, name, data)

    def _print(self, file: int, name: str, data: bytes) -> None:
        room = self._room[file]
        if room < 0:
            return
        self._room[file] = room - len(data)
        text = self._decoders[file].decode(data[:room])
        if self._room[file] < 0:
            text += f"\n... the model prints more than {MOST_OUTPUT:,} bytes: the rest is left out\n"
        stream = getattr(sys, name)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _asked_stack(self) -> str:
        """Have the runner write its stack, including when it runs C code, and return it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, STACK_SIGNAL)
        until, size = time.monotonic() + _STACK_SECONDS, -1
        while time.monotonic() < until:
            time.sleep(_INTERVAL)
            self._relay()
            now = os.fstat(self._stack.fileno()).st_size
            if now and now == size:
                break
            size = now
        return self._read_stack()

    def _read_stack(self) -> str:
        self._stack.seek(0)
        return self._stack.read(_CHUNK)

    def close(self) -> None:
        """Kill the process and everything it started; safe to call more than once."""
        if self._requests.closed:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # in case it has no process group yet
            _, self._status = os.waitpid(self.pid, 0)
        self._requests.close()
        for file in self._outputs:
            os.close(file)
        self._outputs = {}
        self._stack.close()
