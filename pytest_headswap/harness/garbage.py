"""Letting go of models: what else holds one after its test."""

from __future__ import annotations

import atexit
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
            atexit.register(_thaw_nanobind)
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


def _thaw_nanobind() -> None:
    """Let Python free the objects of nanobind at exit; triton has some, and timm imports triton.

    nanobind prints a line for each of its objects that is still alive when the interpreter is gone. Frozen objects
    are never collected, so nanobind reports all of them as leaks.
    """
    if not _nanobind_is_loaded():
        return  # keep everything frozen: the interpreter then ends half a second sooner
    gc.collect()  # run the user's finalizers while every module is still whole
    gc.unfreeze()
    gc.disable()  # Python collects three times at its end; only the first looks at this switch, and two are enough


def _nanobind_is_loaded() -> bool:
    """Return whether a compiled module has functions or types of nanobind."""
    return any(
        type(value).__module__ == "nanobind"
        for module in list(sys.modules.values())
        if not (getattr(module, "__file__", None) or "").endswith(".py")
        for value in list(getattr(module, "__dict__", {}).values())
    )


def give_back_freed_memory() -> None:
    """Have the C library give back what was freed, where it can: it keeps some 100 MB after a large model."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # musl has no such function
            ctypes.CDLL(None).malloc_trim(0)
