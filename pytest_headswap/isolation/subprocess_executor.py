"""Run models in child processes, and decide what to retry.

A child process serves many models. It is replaced after it is lost, after a model changed its global state, or once it
holds too much memory.
"""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_headswap.harness.failure_text import ReportedError, error_message
from pytest_headswap.isolation.child_main import Reply, Request
from pytest_headswap.isolation.child_process import ChildProcess, ProcessLimits, StartMethod
from pytest_headswap.isolation.executor import BuildReply, CheckReply, warn_not_isolated, warn_unsupported
from pytest_headswap.isolation.in_process_executor import InProcessExecutor
from pytest_headswap.isolation.process_error import ChildProcessDied, global_changes_note

if TYPE_CHECKING:
    from pytest_headswap.checks import Check
    from pytest_headswap.zoo import Zoo

_MIN_SECONDS = {"self_test": 120.0, "release": 30.0}  # minimum time, whatever the timeout of the model
_MAX_CRASHES = 2  # processes that a model may lose


class RebuildError(ReportedError):
    """The model cannot be rebuilt after its process was lost."""


class SubprocessExecutor:
    """An executor that runs models in child processes.

    If a check loses the model's process, the model is rebuilt for the remaining checks. A model is given up if it is
    lost while being built, is lost twice, or exceeds its time limit. If a child process cannot be forked, for example
    because the pytest process has threads, it is spawned. If that fails too, the remaining models run in the pytest
    process, with a warning.
    """

    def __init__(
        self,
        in_process: InProcessExecutor,
        start_methods: tuple[StartMethod, StartMethod],
        make_spawned: Callable[[], InProcessExecutor],
    ) -> None:
        """Prepare to start child processes.

        Args:
            in_process: the executor that a forked process inherits.
            start_methods: how to start a child process, and how to try again after a failure.
            make_spawned: picklable function that returns the executor in a spawned process.
        """
        self.in_process = in_process
        self._start_methods = start_methods
        self._make_spawned = make_spawned
        self._child: ChildProcess | None = None
        self._baseline_rss = 0
        self._state_changed = False
        self._imported_modules: list[str] = []
        self._build_request = Request("build")
        self._built = False
        self._has_head = True
        self._nothing_built = False  # the zoo refused, so there is nothing to release
        self._seconds_used = 0.0
        self._crashes = 0
        self._build_crash: ChildProcessDied | None = None
        self._check_crash: ChildProcessDied | None = None
        self._abandoned: ChildProcessDied | None = None
        self._fell_back = self._warned = False

    @property
    def runs_in_subprocess(self) -> bool:
        """Whether models run in a child process."""
        return not self._fell_back

    def start(self) -> str:
        """Start a child process and test it; return why models cannot run in one here, or an empty string.

        A failed start is tried again: the machine may have been short of memory or time.
        """
        first, second = self._start_methods
        if not self._start(first):
            return ""
        self._start_methods = second, second
        return self._start(second)

    def _start(self, method: StartMethod) -> str:
        self._state_changed = False
        try:
            self._child = self._start_child(method)
            reply = self._send(Request("self_test"), "before the first model")
        except Exception as error:  # noqa: BLE001 - options of another plugin may raise anything when they are pickled
            self.close()
            return error_message(error)
        if reply.exception is not None:
            self.close()
            return reply.exception.message
        self._baseline_rss = reply.rss
        return ""

    def build(self, zoo: Zoo, model: str) -> BuildReply:
        """Build a model and swap its head. Raises whatever the model raises; if the model is lost, its checks raise."""
        if self._child is not None and self._child.has_exited():
            self.close()  # it died between requests
        if not self._fell_back and self._child is None and (why := self.start()):
            self._fell_back = True
            warn_not_isolated(why)
        if self._fell_back:
            return self.in_process.build(zoo, model)
        if not self._warned:
            self._warned = True
            warn_unsupported()
        self._build_request = Request("build", zoo.name, model)
        self._built, self._nothing_built, self._seconds_used, self._crashes = False, False, 0.0, 0
        self._build_crash = self._check_crash = self._abandoned = None
        try:
            return self._build()
        except ChildProcessDied as error:
            self._build_crash, self._abandoned = error, error.for_remaining_checks()
            return BuildReply()

    def _build(self) -> BuildReply:
        from pytest_headswap.engine import ZOO_REFUSED

        reply = self._send(self._build_request, "while building the model")
        if reply.exception is not None:
            raise reply.exception.rebuild()
        assert isinstance(reply.value, BuildReply)
        self._built = True
        self._nothing_built = reply.value.reason == ZOO_REFUSED
        self._has_head = not reply.value.reason
        return replace(reply.value, notes=global_changes_note(reply.global_changes))

    def _build_again(self) -> BuildReply:
        """Rebuild the model in a fresh process.

        Raises:
            RebuildError: the second build has no head to check, but the first one had.
        """
        had_head = self._has_head
        built = self._build()
        if built.reason and had_head:
            self._built, self._has_head = False, had_head
            raise RebuildError(f"the model was rebuilt after its process was lost, and has no head: {built.message}")
        return built

    def check(self, check: Check) -> CheckReply:
        """Run a check on the model.

        Raises:
            ChildProcessDied: the model was lost, now or before.
        """
        if self._fell_back:
            return self.in_process.check(check)
        if self._build_crash is not None:
            error, self._build_crash = self._build_crash, None
            raise error
        if self._abandoned is None and self._child is None and (why := self.start()):
            self._abandoned = self._check_crash or ChildProcessDied(
                "crashed", f"not run: the model's process cannot be started: {why}"
            )
        if self._abandoned is not None:
            raise self._abandoned
        try:
            notes = () if self._built else self._build_again().notes
            reply = self._send(Request("check", name=check.name), f"in {check.name}")
        except ChildProcessDied as error:
            self._check_crash = error.for_remaining_checks()
            if error.outcome == "timeout" or self._crashes >= _MAX_CRASHES:
                self._abandoned = self._check_crash
            raise
        if reply.exception is not None and reply.value is None:
            raise reply.exception.rebuild()
        assert isinstance(reply.value, CheckReply)
        exception: Any = reply.exception.rebuild() if reply.exception is not None else None
        finding = replace(reply.value.finding, exception=exception)
        assert self._child is not None
        # the processes of the model count too, which the child process does not see
        peak = max(reply.value.peak_memory_mb or 0.0, self._child.memory_growth_mb)
        return CheckReply(finding, peak, notes + global_changes_note(reply.global_changes))

    def release(self) -> None:
        """Release the model. Close a child process whose state changed, or that holds much more memory than at first.

        Raises:
            ChildProcessDied: the process died or hung while releasing the model.
        """
        if self._fell_back:
            self.in_process.release()
            return
        if self._child is None or self._nothing_built:
            return
        reply = self._send(Request("release"), "while releasing the model")
        if self._state_changed or reply.rss > self._baseline_rss + self.in_process.budget.process_bytes // 2:
            self.close()

    def close(self) -> None:
        """Close the child process, or the executor that replaced it."""
        if self._child is not None:
            self._child.close()
            self._child = None
        if self._fell_back:
            self.in_process.close()

    def _send(self, request: Request, activity: str) -> Reply:
        limits = ProcessLimits(self.in_process.options.timeout, self.in_process.budget.process_bytes)
        if request.operation == "self_test":
            limits = ProcessLimits(_MIN_SECONDS["self_test"], sys.maxsize)  # there is no model yet
        seconds_left = max(_MIN_SECONDS.get(request.operation, 0.0), limits.seconds - self._seconds_used)
        assert self._child is not None
        started = time.monotonic()
        try:
            if request.operation in ("self_test", "build"):
                self._child.start_model()
            reply = self._child.request(request, activity, seconds_left, limits)
        except BaseException as error:
            self.close()
            self._built = False
            self._crashes += isinstance(error, ChildProcessDied)
            raise
        finally:
            self._seconds_used += time.monotonic() - started
        for recorded in reply.warnings:
            warnings.warn_explicit(recorded.message, recorded.category, recorded.filename, recorded.line)
        self._state_changed = self._state_changed or bool(reply.global_changes)
        self._imported_modules += reply.imported_modules
        return reply

    def _start_child(self, method: StartMethod) -> ChildProcess:
        if method == "spawn":
            return ChildProcess(method, self._make_spawned)
        names, self._imported_modules = self._imported_modules, []
        _import_or_undo(names)
        return ChildProcess(method, lambda: self.in_process)


def _import_or_undo(names: Sequence[str]) -> None:
    """Import modules that earlier child processes imported, so that a fork has them.

    If one cannot be imported, forget all of them, so that the next child imports them itself.

    A package whose import failed halfway leaves submodules behind, with which no later import of it works.
    """
    before = set(sys.modules)
    try:
        for name in names:
            importlib.import_module(name)
    except Exception:  # noqa: BLE001 - importing here only saves time
        for name in sys.modules.keys() - before:
            del sys.modules[name]
