"""Describe the loss of a model's process: it died, or exceeded a limit."""

from __future__ import annotations

import os
import re
import signal
import traceback
from typing import Literal

from pytest_headswap.harness.failure_text import ToldError, telling_frames
from pytest_headswap.harness.memory_budget import gib

_MOST_FRAMES = 3
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$')


class LostError(ToldError):
    """The process of a model died or was killed.

    Attributes:
        outcome: `crashed` or `timeout`.
        details: the stack of the process, as far as it is known.
        taken_mb: the memory in MiB that the model had taken by then.
    """

    def __init__(
        self, outcome: Literal["crashed", "timeout"], message: str, stack: str = "", taken_mb: float | None = None
    ) -> None:
        super().__init__(message)
        self.outcome: Literal["crashed", "timeout"] = outcome
        self.code = outcome
        self.details = stack
        self.taken_mb = taken_mb

    def for_the_rest(self) -> LostError:
        """Return the error for the checks that are not run any more."""
        return LostError(self.outcome, f"not run: {self}", taken_mb=self.taken_mb)


def died(status: int, doing: str, stack: str, taken_mb: float) -> LostError:
    """Return the error for a process that ended by itself; `status` is its wait status."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        how = f"the process of the model ended with exit status {code}"
    else:
        how = f"the process of the model was killed by {_signal_name(-code)}"
    hint = "; the kernel does this when memory runs out" if -code == signal.SIGKILL else ""
    return LostError("crashed", f"{how} {doing}{_place(stack)}{hint}", stack, taken_mb)


def too_slow(seconds: float, doing: str, stack: str, taken_mb: float) -> LostError:
    """Return the error for a process killed because the model exceeded its time limit."""
    message = f"timed out after {seconds:g} s (--headswap-timeout) {doing}{_place(stack)}"
    return LostError("timeout", message, stack, taken_mb)


def too_large(taken: int, allowed: int, doing: str, stack: str) -> LostError:
    """Return the error for a process killed because the model exceeded its memory limit."""
    message = (
        f"the model took {gib(taken)} {doing}, more than the {gib(allowed)} of --headswap-memory{_place(stack)}; "
        "raise the limit, or use --headswap-evidence=structure"
    )
    return LostError("crashed", message, stack, round(taken / 2**20, 1))


def told_changes(changes: tuple[str, ...]) -> tuple[str, ...]:
    """Return a note, for the results, of the global state that a model changed."""
    return (f"the model changed global state: {', '.join(changes)}",) if changes else ()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _place(stack: str) -> str:
    """Return the innermost frames as text; empty if none are known."""
    frames = telling_frames(_frames(stack))[: -_MOST_FRAMES - 1 : -1]
    told = [f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames]
    return f", in {', called by '.join(told)}" if told else ""


def _frames(stack: str) -> list[traceback.FrameSummary]:
    """Return the frames of the current thread, or of the first one if none is current; innermost last."""
    _, _, current = stack.rpartition("Current thread")
    frames = []
    for line in (current or stack).splitlines()[1:]:
        found = _FRAME.match(line)
        if found is None:
            break
        frames.append(traceback.FrameSummary(found[1], int(found[2]), found[3]))
    return frames[::-1]
