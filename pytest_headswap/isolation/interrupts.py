"""Delay Ctrl-C, and end a process with its parent process."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.connection import wait

_PR_SET_PDEATHSIG = 1


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block, if the system supports it. A process started in it inherits this."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this process when the process that started it ends."""
    parent = parent_process()
    assert parent is not None
    if sys.platform != "linux":
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent.pid:
        os._exit(0)


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(0)
