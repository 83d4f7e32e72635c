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

from pytest_headswap.engine.pytorch.internals import out_of_device_memory

_Result = TypeVar("_Result")
_GATE, _ROOM = 0, 1  # byte offsets in the lock file


def with_room(device: torch.device, run: Callable[[], _Result]) -> _Result:
    """Return the result of `run`. If the device runs out of memory, run again with exclusive access to it.

    Raises:
        Exception: whatever `run` raises, including out of memory if the device is too small even with exclusive
            access.
    """
    with _turn(device, alone=False):
        try:
            return run()
        except Exception as error:
            if not out_of_device_memory(error):
                raise
        finally:  # runs after the exception and the tensors in its frames are gone
            _give_back(device)
    with _turn(device, alone=True):
        try:
            return run()
        finally:
            _give_back(device)


def _give_back(device: torch.device) -> None:
    """Empty torch's cache of device memory, so that other processes can use it."""
    if device.type == "cuda":
        with suppress(RuntimeError):  # after a failed kernel every CUDA call fails
            torch.cuda.empty_cache()


@contextmanager
def _turn(device: torch.device, *, alone: bool) -> Iterator[None]:
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
            fcntl.lockf(file, fcntl.LOCK_EX, 1, _GATE)
            fcntl.lockf(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, 1, _ROOM)
            if not alone:
                fcntl.lockf(file, fcntl.LOCK_UN, 1, _GATE)
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
