"""Turns on a device whose memory several processes share: all at once, or one alone where that is too little."""

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
_GATE, _ROOM = 0, 1  # bytes of the lock's file


def with_room(device: torch.device, run: Callable[[], _Result]) -> _Result:
    """What `run` returns: beside other processes, and where memory of the device is missing once more without them.

    Raises:
        Exception: whatever `run` raises; what `out_of_device_memory` knows, when the device alone is too small.
    """
    with _turn(device, alone=False):
        try:
            return run()
        except Exception as error:
            if not out_of_device_memory(error):
                raise
        finally:  # after the exception and the tensors in its frames are gone
            _give_back(device)
    with _turn(device, alone=True):
        try:
            return run()
        finally:
            _give_back(device)


def _give_back(device: torch.device) -> None:
    """Have torch give back what it keeps of the device's memory for later: other processes need it now."""
    if device.type == "cuda":
        with suppress(RuntimeError):  # after a failed kernel nothing goes any more
            torch.cuda.empty_cache()


@contextmanager
def _turn(device: torch.device, *, alone: bool) -> Iterator[None]:
    """A block that processes of one user are in together, or one alone; on Windows, or without a lock, all are in.

    Who waits to be alone holds the gate, so that no more come in. The system lets go of what a process held that ends.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    file = -1
    try:
        with suppress(OSError):  # a folder for temporary files that is full, or knows no locks
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
    """The same for all processes, also where they number the devices otherwise."""
    name = str(device.type)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name = str(getattr(properties, "uuid", device.index))  # torch 2.4 does not tell it
    return Path(tempfile.gettempdir()) / f"pytest-headswap-{os.getuid()}-{name}.lock"
