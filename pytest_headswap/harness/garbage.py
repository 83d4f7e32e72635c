"""Release models: drop the references that keep one alive after its test, and spare the gc needless work."""

from __future__ import annotations

import atexit
import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def clear_last_exception() -> None:
    """Delete the last failure, which pytest keeps for a debugger: it holds the frames of the test and so the model.

    Pytest deletes it too, but only after the next model has been built.
    """
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)


@contextmanager
def gc_disabled_for_imports() -> Iterator[None]:
    """Disable garbage collection in a block of imports, and exempt what they create if torch is among it.

    The imports of torch and timm create a million objects that are never freed. Scanning them for garbage takes a third
    of the import time, and a second later in the run. They are exempt until the interpreter exits.
    """
    enabled, had_torch = gc.isenabled(), "torch" in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if not had_torch and "torch" in sys.modules:
            gc.freeze()
            atexit.register(_unfreeze_at_exit)
        if enabled:
            gc.enable()


def _unfreeze_at_exit() -> None:
    """Let Python free the objects of nanobind, which triton uses: it prints a line for each that is never collected."""
    gc.collect()  # run finalizers while every module is still whole
    gc.unfreeze()
    gc.disable()  # Python collects three times at its end, and only the first looks at this switch: two are enough


def trim_heap() -> None:
    """Have the C library return freed memory to the system, if it can: it keeps some 100 MB after a large model."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)
