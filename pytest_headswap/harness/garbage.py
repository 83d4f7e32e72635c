"""Release models: drop the references that keep one alive after its test, and spare the gc needless work."""

from __future__ import annotations

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
    """Disable garbage collection in a block of imports.

    The imports of torch and timm create a million objects that are never freed. Scanning them for garbage takes a third
    of the import time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def trim_heap() -> None:
    """Have the C library return freed memory to the system, if it can: it keeps some 100 MB after a large model."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)
