"""Release models: drop the references that keep one alive after its test, and spare the gc needless work."""

from __future__ import annotations

import atexit
import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def forget_last_failure() -> None:
    """Delete the last failure, which pytest keeps for a debugger: it holds the frames of the test and so the model.

    Pytest deletes it too, but only after the next model has been built.
    """
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)


@contextmanager
def without_looking_for_garbage() -> Iterator[None]:
    """Disable the gc during imports; the gc would take a third of the time.

    Imports of torch and timm create a million permanent objects. pytest collects five times at its end, and Python once
    more. If the block imports torch, everything alive after it is therefore frozen (exempt from garbage collection).
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
"""Modules that this process first imported in one of our runs."""


def leave_out_what_is_left() -> None:
    """Exempt everything alive at the end of a zoo-only run from garbage collection.

    pytest and Python would collect six more times, which takes 7 s with 100,000 results. If torch was imported before
    the run, the process does other work afterwards, and nothing is frozen.
    """
    if _imported:
        gc.freeze()


def _thaw_nanobind() -> None:
    """Let Python free the objects of nanobind at exit; triton has some, and timm imports triton.

    nanobind prints a line for each of its objects that is still alive when the interpreter is gone. Frozen objects
    are never collected, so nanobind reports all of them as leaks.
    """
    if not _nanobind_is_loaded():
        return  # keep everything frozen: the interpreter then exits half a second sooner
    gc.collect()  # run the user's finalizers while every module is still whole
    gc.unfreeze()
    gc.disable()  # Python collects three times at exit; only the first heeds this switch, and two are enough


def _nanobind_is_loaded() -> bool:
    """Return whether a compiled module holds functions or types of nanobind."""
    return any(
        type(value).__module__ == "nanobind"
        for module in list(sys.modules.values())
        if not (getattr(module, "__file__", None) or "").endswith(".py")
        for value in list(getattr(module, "__dict__", {}).values())
    )


def give_back_freed_memory() -> None:
    """Have the C library return freed memory to the system, if it can: it keeps some 100 MB after a large model."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)
