"""Letting go of models: what else holds one after its test."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def forget_last_failure() -> None:
    """Delete what pytest keeps of a failure for a debugger, which holds the frames of the test, and so the model.

    Pytest does the same, but only when the next model has been built already.
    """
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)


@contextmanager
def without_looking_for_garbage() -> Iterator[None]:
    """A block for imports: those of torch and timm make a million objects that stay, and a third of their time goes
    into looking for garbage among these.

    Later on, too: pytest looks five times at its end, and Python once more. So where torch is imported by the block,
    what there is after it is left out from then on.
    """
    enabled, there = gc.isenabled(), "torch" in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if not there and "torch" in sys.modules:
            _imported.append("torch")
            gc.freeze()
        if enabled:
            gc.enable()


_imported: list[str] = []
"""What this process did not have before a run of ours."""


def leave_out_what_is_left() -> None:
    """Leave out all that there is at the end of a run in which no test of the user's took part.

    Pytest and Python look for garbage among it six times more, which takes 7 s where there are 100,000 results. In a
    process that had torch before, others go on after the run, and nothing is left out.
    """
    if _imported:
        gc.freeze()


def give_back_freed_memory() -> None:
    """Have the C library give back what was freed, where it can: it keeps some 100 MB after a large model."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # musl has no such function
            ctypes.CDLL(None).malloc_trim(0)
