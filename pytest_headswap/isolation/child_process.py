"""Run models in a child process: a crash, hang, flood of output or memory blow-up affects only that model.

The pytest process, or an xdist worker, forks or spawns a child process and sends it one request at a time
(`child_main.py`). While it waits for the reply, it monitors the child process's time, memory and output.
"""

from __future__ import annotations

import codecs
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from io import FileIO
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import register_after_fork
from pathlib import Path
from types import ModuleType
from typing import Literal

import psutil

from pytest_headswap.isolation import process_error
from pytest_headswap.isolation.child_main import STACK_SIGNAL, Reply, Request, child_main
from pytest_headswap.isolation.in_process_executor import InProcessExecutor
from pytest_headswap.isolation.inherited_file import InheritedFile
from pytest_headswap.isolation.interrupts import interrupts_blocked
from pytest_headswap.isolation.process_tree import (
    descendants_of,
    end_processes,
    new_segments,
    segments,
    tree_bytes,
)

StartMethod = Literal["fork", "spawn"]

MAX_OUTPUT = 2**20
"""The bytes that a model may print to stdout, and again to stderr."""

_POLL_SECONDS = 0.05  # seconds between checks of a busy child process
_CHUNK = 2**16
_STACK_SECONDS = 1.0  # time for a child process to write its stack


@dataclass(frozen=True)
class ProcessLimits:
    """The time and memory that a model may take."""

    seconds: float
    bytes: int


class ChildProcess:
    """A child process and this end of its pipes."""

    def __init__(self, start_method: StartMethod, make_executor: Callable[[], InProcessExecutor]) -> None:
        """Start the process. `make_executor` is called in it, and has to be picklable if it is spawned."""
        self._requests, child_end = Pipe()
        ends = [os.pipe() for _ in range(2)]
        self._stack = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._outputs = {FileIO(read): stream for (read, _), stream in zip(ends, ("stdout", "stderr"), strict=True)}
        self._decoders = {file: codecs.getincrementaldecoder("utf-8")("replace") for file in self._outputs}
        self._output_budget = dict.fromkeys(self._outputs, MAX_OUTPUT)
        self._baseline_bytes = 0
        self._peak_bytes = 0
        self._started: dict[int, psutil.Process] = {}
        self._segments_before = segments()
        self._segments: set[Path] = set()
        register_after_fork(self._requests, Connection.close)  # a fork's copies would keep the pipes open
        for file in self._outputs:
            register_after_fork(file, FileIO.close)
        outputs = [InheritedFile(write) for _, write in ends]
        arguments = make_executor, child_end, outputs, InheritedFile(self._stack.fileno())
        self._process: BaseProcess = get_context(start_method).Process(  # type: ignore[attr-defined]
            target=child_main, args=arguments
        )
        try:
            hidden = main_hidden() if start_method == "spawn" else nullcontext()
            with interrupts_blocked(), hidden, warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # about threads; the child needs none
                self._process.start()
        except BaseException:
            self._close_files()
            raise
        finally:
            child_end.close()
            for _, write in ends:
                os.close(write)
        assert self._process.pid is not None
        self._pid: int = self._process.pid
        if sys.platform != "win32":
            for file in self._outputs:
                os.set_blocking(file.fileno(), False)

    def start_model(self) -> None:
        """Prepare for the next model: reset its output allowance, and take the present memory as its baseline."""
        self._output_budget = dict.fromkeys(self._outputs, MAX_OUTPUT)
        self._segments_before = segments()
        self._peak_bytes = 0
        self._sample_memory()
        self._baseline_bytes = self._peak_bytes

    def request(self, request: Request, activity: str, seconds_left: float, limits: ProcessLimits) -> Reply:
        """Send a request and return the reply; wait at most `seconds_left`.

        Raises:
            ChildProcessDied: the child process died, or was killed for exceeding a limit.
        """
        try:
            return self._send_and_wait(request, activity, seconds_left, limits)
        except BaseException:  # including Ctrl-C: nobody waits for the reply any more
            self.close()
            raise

    def _send_and_wait(self, request: Request, activity: str, seconds_left: float, limits: ProcessLimits) -> Reply:
        until = time.monotonic() + seconds_left
        with suppress(OSError):  # the child process is already dead
            self._requests.send(request)
        while True:
            seconds_left = until - time.monotonic()
            # Windows cannot wait for a pipe
            files = [] if sys.platform == "win32" else [file.fileno() for file in self._outputs]
            ready = wait([self._requests, *files], max(0.0, min(_POLL_SECONDS, seconds_left)))
            if self._requests in ready and (reply := self._receive()) is not None:
                self._forward_output()
                if reply.global_changes:
                    self._find_started()
                return reply
            self._forward_output()
            if self.has_exited():
                self._forward_output()
                assert self._process.exitcode is not None
                raise process_error.process_died(
                    self._process.exitcode, activity, self._read_stack(), self.memory_growth_mb
                )
            self._sample_memory()
            if self._memory_growth > limits.bytes:
                raise process_error.exceeded_memory(self._memory_growth, limits.bytes, activity, self._request_stack())
            if seconds_left <= 0:
                raise process_error.timed_out(limits.seconds, activity, self._request_stack(), self.memory_growth_mb)

    @property
    def _memory_growth(self) -> int:
        return self._peak_bytes - self._baseline_bytes

    @property
    def memory_growth_mb(self) -> float:
        """Return the peak memory of the model and its processes in MiB, as far as it was seen while it was busy."""
        return round(self._memory_growth / 2**20, 1)

    def _sample_memory(self) -> None:
        self._peak_bytes = max(self._peak_bytes, tree_bytes(self._pid, self._find_started()))

    def _find_started(self) -> list[int]:
        """Return the ids of the processes that the model started. Remember them and the shared memory they hold."""
        found = descendants_of(self._pid)
        for pid in found:
            if pid not in self._started:
                with suppress(psutil.Error):
                    self._started[pid] = psutil.Process(pid)
        self._segments |= new_segments([self._pid, *found], self._segments_before)
        return found

    def _receive(self) -> Reply | None:
        try:
            reply: Reply = self._requests.recv()
        except (EOFError, OSError):
            self._wait_for_exit()
            return None
        return reply

    def has_exited(self) -> bool:
        """Return whether the process has ended."""
        return self._process.exitcode is not None

    def _wait_for_exit(self) -> None:
        """Wait until the process ends, now that its pipe is closed; kill it if a model closed the pipe."""
        until = time.monotonic() + 1.0
        while not self.has_exited():
            if time.monotonic() > until:
                self._process.kill()
            time.sleep(0.001)

    def _forward_output(self) -> None:
        """Print the child process's output, so that pytest captures it."""
        for file, name in list(self._outputs.items()):
            for _ in range(16):  # endless output must not delay the checks of time and memory
                data = _read_available(file)
                if data is None:
                    break
                if not data:
                    file.close()
                    del self._outputs[file]
                    break
                self._print(file, name, data)

    def _print(self, file: FileIO, name: str, data: bytes) -> None:
        budget = self._output_budget[file]
        if budget < 0:
            return
        self._output_budget[file] = budget - len(data)
        text = self._decoders[file].decode(data[:budget])
        if self._output_budget[file] < 0:
            text += f"\n... the model prints more than {MAX_OUTPUT:,} bytes: the rest is omitted\n"
        stream = getattr(sys, name)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _request_stack(self) -> str:
        """Have the child process write its stack, including when it runs C code, and return it."""
        if not STACK_SIGNAL:
            return ""
        with suppress(ProcessLookupError):
            os.kill(self._pid, STACK_SIGNAL)
        until, size = time.monotonic() + _STACK_SECONDS, -1
        while time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
            self._forward_output()
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
        crashed = self.has_exited()
        if not crashed:
            self._find_started()
        self._process.kill()
        self._process.join()
        end_processes(self._pid, self._started.values(), crashed=crashed)
        for path in self._segments:
            path.unlink(missing_ok=True)
        self._close_files()

    def _close_files(self) -> None:
        self._requests.close()
        self._stack.close()
        for file in self._outputs:
            file.close()
        self._outputs = {}


def _read_available(file: FileIO) -> bytes | None:
    """Return what a pipe holds; None if it is empty, and no bytes at its end."""
    if sys.platform == "win32":
        import _winapi
        import msvcrt

        try:
            if not _winapi.PeekNamedPipe(msvcrt.get_osfhandle(file.fileno()), 0)[0]:
                return None
        except BrokenPipeError:
            return b""
    return file.read(_CHUNK)


@contextmanager
def main_hidden() -> Iterator[None]:
    """Keep a spawned process from importing `__main__`: a script that calls `pytest.main()` would run again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
