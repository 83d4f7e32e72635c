"""Run all checks of a model in another process, and replay here what the calls there did.

The process returns the calls of a model together, as plain data.
"""

from __future__ import annotations

import io
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_headswap.isolation.child_main import RecordedWarning, call_and_record, record_warnings
from pytest_headswap.isolation.executor import BuildReply, CheckReply
from pytest_headswap.isolation.remote_exception import RemoteException

if TYPE_CHECKING:
    from pytest_headswap.isolation.subprocess_executor import SubprocessExecutor

ModelKey = tuple[str, str]
"""The names of a zoo and a model."""


@dataclass(frozen=True)
class RecordedCall:
    """What a call of an executor returned or raised, and what it printed."""

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


@dataclass(frozen=True)
class CheckedModel:
    """The calls that built, checked and released a model."""

    built: RecordedCall
    checked: dict[str, RecordedCall]
    released: RecordedCall | None = None


def check_model(executor: SubprocessExecutor, zoo: str, model: str, checks: Sequence[str]) -> CheckedModel:
    """Build, check and release a model."""
    in_process = executor.in_process
    built = _record(executor, partial(executor.build, in_process.zoos[zoo], model))
    if built.value is None:
        return CheckedModel(built, {})
    assert isinstance(built.value, BuildReply)
    checked = {}
    for name in checks:
        check = in_process.checks[name]
        if not built.value.reason or (built.value.without_head and not check.needs_head):
            checked[name] = _record(executor, partial(executor.check, check))
    return CheckedModel(built, checked, _record(executor, executor.release))


def _record(executor: SubprocessExecutor, call: Callable[[], Any]) -> RecordedCall:
    started = time.monotonic()
    stdout, stderr = io.StringIO(), io.StringIO()
    with record_warnings() as recorded, redirect_stdout(stdout), redirect_stderr(stderr):
        value, exception = call_and_record(call, executor.in_process.format_failure)
    seconds = time.monotonic() - started
    return RecordedCall(value, exception, stdout.getvalue(), stderr.getvalue(), tuple(recorded), seconds)
