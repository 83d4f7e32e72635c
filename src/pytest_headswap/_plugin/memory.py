"""Letting go of models: what else holds one after its test."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress


def forget_last_failure() -> None:
    """Delete what pytest keeps of a failure for a debugger, which holds the frames of the test, and so the model.

    Pytest does the same, but only when the next model has been built already.
    """
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)


def give_back_freed_memory() -> None:
    """Have the C library give back what was freed, where it can: it keeps some 100 MB after a large model."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # musl has no such function
            ctypes.CDLL(None).malloc_trim(0)
