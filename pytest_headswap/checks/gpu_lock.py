"""Share the memory of a device between processes: all run at once, or one at a time if memory runs out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import ThreadError
from typing import TypeVar

import torch
from fasteners import InterProcessLock, InterProcessReaderWriterLock

from pytest_headswap.engine.pytorch import accelerators

_Result = TypeVar("_Result")


def run_with_device_memory(device: torch.device, run: Callable[[], _Result]) -> _Result:
    """Return the result of `run`. If the device runs out of memory, run again with exclusive access to it.

    Raises:
        Exception: whatever `run` raises, including out of memory if the device is too small even with exclusive
            access.
    """
    with _device_lock(device, exclusive=False):
        try:
            return run()
        except Exception as error:
            if not accelerators.is_out_of_memory(error):
                raise
        finally:  # runs after the exception and the tensors in its frames are gone
            accelerators.empty_cache(device)
    with _device_lock(device, exclusive=True):
        try:
            return run()
        finally:
            accelerators.empty_cache(device)


@contextmanager
def _device_lock(device: torch.device, *, exclusive: bool) -> Iterator[None]:
    """Hold shared or exclusive access to the device. The kernel releases the locks of a dead process.

    A process that waits for access holds the gate, so that no process can enter before one that waits for exclusive
    access. Without a file system that supports locks, hold nothing.
    """
    path = _lock_file(device)
    lock = InterProcessReaderWriterLock(path)
    with ExitStack() as access:
        with suppress(OSError, ThreadError), InterProcessLock(f"{path}.gate"):
            access.enter_context(lock.write_lock() if exclusive else lock.read_lock())
        yield


def _lock_file(device: torch.device) -> Path:
    """Return the path of the lock file: one for all processes of a user, even if they number devices differently."""
    user = os.getuid() if hasattr(os, "getuid") else "user"  # on Windows each user has a temporary folder
    return Path(tempfile.gettempdir()) / f"pytest-headswap-{user}-{accelerators.identity(device)}.lock"
