"""Run models in child processes, and decide what to retry.

A runner serves many models. It is replaced after it is lost, after a model changed its global state, or once it holds
too much memory.
"""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_headswap.harness.failure_text import ToldError
from pytest_headswap.isolation.child_main import Reply, Request
from pytest_headswap.isolation.child_process import Limits, Runner
from pytest_headswap.isolation.executor import Built, Checked, warn_unprotected
from pytest_headswap.isolation.in_process_executor import LocalBench
from pytest_headswap.isolation.process_error import LostError, told_changes

if TYPE_CHECKING:
    from pytest_headswap.checks import Check
    from pytest_headswap.zoo import Zoo

_LEAST_SECONDS = {"hello": 120.0, "release": 30.0}  # minimum time, whatever the timeout of the model
_LIVES = 2  # processes that a model may lose


class RebuildError(ToldError):
    """The model cannot be rebuilt after its process was lost."""


class GuardedBench:
    """An executor that runs models in child processes.

    If a check loses the model's process, the model is rebuilt for the remaining checks. A model is given up if it is
    lost while being built, is lost twice, or exceeds its time limit. If no runner can be started, for example because
    the pytest process has threads, the remaining models run in that process, with a warning.
    """

    def __init__(self, local: LocalBench) -> None:
        self.local = local
        self._runner: Runner | None = None
        self._fresh_held = 0
        self._stale = False
        self._imported: list[str] = []
        self._model = Request("build")
        self._built = False
        self._refused = False  # the zoo refused, so there is nothing to release
        self._used = 0.0
        self._deaths = 0
        self._lost_in_build: LostError | None = None
        self._lost_in_check: LostError | None = None
        self._given_up: LostError | None = None
        self._is_local = False

    @property
    def elsewhere(self) -> bool:
        """Whether models run in a child process."""
        return not self._is_local

    def try_out(self) -> str:
        """Start a runner and test it; return why models cannot run in one here, or an empty string."""
        self._stale = False
        try:
            self._runner = self._fresh()
            reply = self._ask(Request("hello"), "before the first model")
        except (LostError, OSError) as error:
            self.close()
            return str(error)
        if reply.raised is not None:
            self.close()
            return reply.raised.message
        self._fresh_held = reply.held
        return ""

    def build(self, zoo: Zoo, model: str) -> Built:
        """Build a model and swap its head. Raises whatever the model raises; if the model is lost, its checks raise."""
        if self._runner is not None and self._runner.ended():
            self.close()  # it died between requests
        if not self._is_local and self._runner is None and (why := self.try_out()):
            self._is_local = True
            warn_unprotected(why)
        if self._is_local:
            return self.local.build(zoo, model)
        self._model = Request("build", zoo.name, model)
        self._built, self._refused, self._used, self._deaths = False, False, 0.0, 0
        self._lost_in_build = self._lost_in_check = self._given_up = None
        try:
            return self._build()
        except LostError as error:
            self._lost_in_build, self._given_up = error, error.for_the_rest()
            return Built()

    def _build(self) -> Built:
        from pytest_headswap.engine.errors import ZOO_REFUSED

        reply = self._ask(self._model, "while building the model")
        if reply.raised is not None:
            raise reply.raised.revive()
        assert isinstance(reply.value, Built)
        self._built = True
        self._refused = reply.value.reason == ZOO_REFUSED
        return replace(reply.value, notes=told_changes(reply.changes))

    def _build_again(self) -> Built:
        """Rebuild the model in a fresh process.

        Raises:
            RebuildError: the second build has no head to check, but the first one had.
        """
        built = self._build()
        if built.reason:
            self._built = False
            raise RebuildError(f"built again after its process was lost, the model has no head: {built.message}")
        return built

    def check(self, check: Check) -> Checked:
        """Run a check on the model.

        Raises:
            LostError: the model was lost, now or before.
        """
        if self._is_local:
            return self.local.check(check)
        if self._lost_in_build is not None:
            error, self._lost_in_build = self._lost_in_build, None
            raise error
        if self._given_up is None and self._runner is None and (why := self.try_out()):
            self._given_up = self._lost_in_check or LostError("crashed", f"not run: no process for the model: {why}")
        if self._given_up is not None:
            raise self._given_up
        try:
            notes = () if self._built else self._build_again().notes
            reply = self._ask(Request("check", name=check.name), f"in {check.name}")
        except LostError as error:
            self._lost_in_check = error.for_the_rest()
            if error.outcome == "timeout" or self._deaths >= _LIVES:
                self._given_up = self._lost_in_check
            raise
        if reply.raised is not None and reply.value is None:
            raise reply.raised.revive()
        assert isinstance(reply.value, Checked)
        exception: Any = reply.raised.revive() if reply.raised is not None else None
        finding = replace(reply.value.finding, exception=exception)
        return replace(reply.value, finding=finding, notes=notes + told_changes(reply.changes))

    def release(self) -> None:
        """Release the model, and close a runner whose state changed or that holds much more memory than at its start.

        Raises:
            LostError: the process died or hung while releasing the model.
        """
        if self._is_local:
            self.local.release()
            return
        if self._runner is None or self._refused:
            return
        reply = self._ask(Request("release"), "while releasing the model")
        if self._stale or reply.held > self._fresh_held + self.local.budget.model // 2:
            self.close()

    def close(self) -> None:
        """Close the runner, or the executor that replaced it."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        if self._is_local:
            self.local.close()

    def _ask(self, request: Request, doing: str) -> Reply:
        limits = Limits(self.local.options.timeout, self.local.budget.model)
        if request.what == "hello":
            limits = Limits(_LEAST_SECONDS["hello"], sys.maxsize)  # there is no model yet
        left = max(_LEAST_SECONDS.get(request.what, 0.0), limits.seconds - self._used)
        assert self._runner is not None
        began = time.monotonic()
        try:
            if request.what in ("hello", "build"):
                self._runner.begin_model()
            reply = self._runner.ask(request, doing, left, limits)
        except BaseException as error:
            self.close()
            self._built = False
            self._deaths += isinstance(error, LostError)
            raise
        finally:
            self._used += time.monotonic() - began
        for warned in reply.warned:
            warnings.warn_explicit(warned.message, warned.category, warned.filename, warned.line)
        self._stale = self._stale or bool(reply.changes)
        self._imported += reply.imported
        return reply

    def _fresh(self) -> Runner:
        """Return a new runner. Imports the torch modules that earlier runners imported, so that no later one has to."""
        for name in self._imported:
            with suppress(Exception):
                importlib.import_module(name)
        self._imported = []
        return Runner(self.local)
