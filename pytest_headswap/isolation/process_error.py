"""Describe the loss of a model's process: it died, or exceeded a limit."""

from __future__ import annotations

import re
import signal
import traceback
from typing import Any, Literal

from pytest_headswap._text import format_bytes
from pytest_headswap.harness.failure_text import ReportedError, format_frames, relevant_frames

_MAX_FRAMES = 3
_FRAME_LINE = re.compile(r'^  File "(.+)", line (\d+) in (.+)$')


class ChildProcessDied(ReportedError):
    """The process of a model died or was killed.

    Attributes:
        outcome: `crashed` or `timeout`.
        details: the stack of the process, as far as it is known.
        traceback: its frames in the model's own code, with the innermost one.
        peak_memory_mb: the memory in MiB that the model had taken by then.
    """

    def __init__(
        self, outcome: Literal["crashed", "timeout"], message: str, stack: str = "", peak_memory_mb: float | None = None
    ) -> None:
        super().__init__(message)
        self.outcome: Literal["crashed", "timeout"] = outcome
        self.code = outcome
        self.details = stack
        self.traceback = format_frames(_parse_faulthandler(stack))
        self.peak_memory_mb = peak_memory_mb

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.outcome, str(self), self.details, self.peak_memory_mb)

    def for_remaining_checks(self) -> ChildProcessDied:
        """Return the error for the checks that are not run any more."""
        return ChildProcessDied(self.outcome, f"not run: {self}", peak_memory_mb=self.peak_memory_mb)


def process_died(code: int, activity: str, stack: str, peak_memory_mb: float) -> ChildProcessDied:
    """Return the error for a process that ended by itself; `code` is its exit status, or minus its signal."""
    if code >= 0:
        how = f"the process of the model ended with exit status {code}"
    else:
        how = f"the process of the model was killed by {_signal_name(-code)}"
    hint = "; the kernel does this when memory runs out" if how.endswith("SIGKILL") else ""
    return ChildProcessDied("crashed", f"{how} {activity}{_innermost_frames(stack)}{hint}", stack, peak_memory_mb)


def timed_out(seconds: float, activity: str, stack: str, peak_memory_mb: float) -> ChildProcessDied:
    """Return the error for a process killed because the model exceeded its time limit."""
    message = f"timed out after {seconds:g} s (--headswap-timeout) {activity}{_innermost_frames(stack)}"
    return ChildProcessDied("timeout", message, stack, peak_memory_mb)


def exceeded_memory(growth: int, limit: int, activity: str, stack: str) -> ChildProcessDied:
    """Return the error for a process killed because the model exceeded its memory limit."""
    message = (
        f"the model took {format_bytes(growth)} {activity}, more than the {format_bytes(limit)} of "
        f"--headswap-memory-limit{_innermost_frames(stack)}; "
        "raise the limit, or use --headswap-evidence=abstract"
    )
    return ChildProcessDied("crashed", message, stack, round(growth / 2**20, 1))


def global_changes_note(changes: tuple[str, ...]) -> tuple[str, ...]:
    """Return a note, for the results, of the global state that a model changed."""
    return (f"the model changed global state: {', '.join(changes)}",) if changes else ()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _innermost_frames(stack: str) -> str:
    """Return the innermost frames as text; empty if none are known."""
    frames = relevant_frames(_parse_faulthandler(stack))[: -_MAX_FRAMES - 1 : -1]
    descriptions = [f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames]
    return f", in {', called by '.join(descriptions)}" if descriptions else ""


def _parse_faulthandler(stack: str) -> list[traceback.FrameSummary]:
    """Return the frames of the current thread, or of the first one if none is current; innermost last."""
    _, _, current = stack.rpartition("Current thread")
    frames = []
    for line in (current or stack).splitlines()[1:]:
        match = _FRAME_LINE.match(line)
        if match is None or match[3] == "child_main":  # the frames further out are of pytest and multiprocessing
            break
        frames.append(traceback.FrameSummary(match[1], int(match[2]), match[3]))
    return frames[::-1]
