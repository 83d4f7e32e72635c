"""Share the memory of a GPU between processes: all run at once, or one at a time if memory runs out."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch

from pytest_headswap.engine.pytorch import is_device_oom

_Result = TypeVar("_Result")
_GATE_BYTE, _LOCK_BYTE = 0, 1  # byte offsets in the lock file


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
            if not is_device_oom(error):
                raise
        finally:  # runs after the exception and the tensors in its frames are gone
            _empty_cache(device)
    with _device_lock(device, exclusive=True):
        try:
            return run()
        finally:
            _empty_cache(device)


def _empty_cache(device: torch.device) -> None:
    """Empty torch's cache of device memory, so that other processes can use it."""
    if device.type == "cuda":
        with suppress(RuntimeError):  # after a failed kernel every CUDA call fails
            torch.cuda.empty_cache()


@contextmanager
def _device_lock(device: torch.device, *, exclusive: bool) -> Iterator[None]:
    """Hold shared or exclusive access to the device; on Windows, or if the lock file cannot be locked, hold nothing.

    A process waiting for exclusive access holds the gate, so no new ones enter. The kernel releases a dead process's
    locks.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    file = -1
    try:
        with suppress(OSError):  # the temporary folder is full or does not support locks
            file = os.open(_lock_file(device), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.lockf(file, fcntl.LOCK_EX, 1, _GATE_BYTE)
            fcntl.lockf(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, 1, _LOCK_BYTE)
            if not exclusive:
                fcntl.lockf(file, fcntl.LOCK_UN, 1, _GATE_BYTE)
        yield
    finally:
        if file >= 0:
            os.close(file)


def _lock_file(device: torch.device) -> Path:
    """Return the path of the lock file: one for all processes of a user, even if they number devices differently."""
    name = str(device.type)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name = str(getattr(properties, "uuid", device.index))  # torch 2.4 has no uuid
    return Path(tempfile.gettempdir()) / f"pytest-headswap-{os.getuid()}-{name}.lock"
