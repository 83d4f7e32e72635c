"""Lock a report folder: only one run at a time writes to it, and the lock file identifies that run.

The kernel releases the lock when the process of the run ends, even after `kill -9`, so a leftover lock file is
harmless. A forked child neither inherits the lock nor releases it. Windows and some network file systems lack such
locks. There, the lock is free if the process that the file names has ended.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

LOCK_NAME = "results.lock"
_MAX_TRIES = 10  # another run may delete its lock file between two of our steps
_MAX_CHARS = 300  # characters of a command
_MAX_BYTES = 4096  # bytes of a lock file
_NO_LINKS: int = getattr(os, "O_NOFOLLOW", 0)  # the lock overwrites its file; Windows lacks the flag

_Identity = tuple[int, int]
_Owner = dict[str, Any]

_HELD: dict[_Identity, _Owner] = {}
"""Lock files that this process holds. The kernel would grant the same process a second lock."""


class FolderInUseError(Exception):
    """Another run is writing to the folder. The message names the run and says what to do."""


class FolderLock:
    """The exclusive right to write to a report folder, from creation of the object until `release`.

    Args:
        folder: the folder to lock; it is created if it does not exist.
        command: the command of this run, for the error message of a second run.

    Raises:
        FolderInUseError: another run has the lock.
        OSError: the folder or the lock file is not writable.
    """

    def __init__(self, folder: Path, command: str = "") -> None:
        self.folder = folder
        self.path = folder / LOCK_NAME
        self._owner: _Owner = {
            "pid": os.getpid(),
            "created": _created(os.getpid()),
            "host": platform.node(),
            "command": command[:_MAX_CHARS],
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        self._file = -1
        self._identity: _Identity = (0, 0)
        self.take()

    def take(self) -> None:
        """Take the lock, or take it again if its file was deleted.

        Raises:
            FolderInUseError: another run has the lock.
            OSError: the folder or the lock file is not writable.
        """
        if self.held:
            return
        self._close()
        for _ in range(_MAX_TRIES):
            self.folder.mkdir(parents=True, exist_ok=True)
            here = _identity_at(self.path)
            if here in _HELD:  # do not open it: closing the file would release this process's lock
                raise FolderInUseError(self._in_use(_HELD[here]))
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o644)
            try:
                if not _is_free(file):
                    raise FolderInUseError(self._in_use(_owner_in(file)))
                identity = _identity(os.fstat(file))
                if _identity_at(self.path) == identity:
                    self._keep(file, identity)
                    return
            finally:
                if self._file != file:
                    os.close(file)
        raise FolderInUseError(self._in_use({}))

    @property
    def held(self) -> bool:
        """Return whether the lock file in the folder is the one that this object locked."""
        return self._file >= 0 and _identity_at(self.path) == self._identity

    def release(self) -> None:
        """Release the folder. A second call or a call in a forked process does nothing."""
        if self._file < 0 or self._owner["pid"] != os.getpid():
            return
        held = self.held
        if sys.platform == "win32":  # Windows cannot delete an open file
            self._close()
        if held:
            with suppress(OSError):
                self.path.unlink()
        self._close()

    def _keep(self, file: int, identity: _Identity) -> None:
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, json.dumps(self._owner).encode("ascii"))
        self._file, self._identity = file, identity
        _HELD[identity] = self._owner

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            _HELD.pop(self._identity, None)
            self._file = -1

    def _in_use(self, owner: _Owner) -> str:
        who = "another run"
        if owner:
            command = f" ({owner['command']})" if owner.get("command") else ""
            who = f"process {owner.get('pid')} on {owner.get('host')}{command}, which started {owner.get('started')},"
        return (
            f"the report folder {self.folder} is in use: {who} is writing its results there. Wait until it ends, "
            "or choose another folder"
        )


def _is_free(file: int) -> bool:
    """Try to lock an open file; return whether that worked."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False  # other errors: the file system has no locks
        else:
            return True
    return not _is_alive(_owner_in(file))


def _is_alive(owner: _Owner) -> bool:
    """Return whether the process that a lock file names still runs. Assume so if it runs on another machine."""
    if not owner:
        return False
    if owner.get("host") != platform.node():
        return True
    pid, created = owner.get("pid"), owner.get("created")
    if not isinstance(pid, int) or not isinstance(created, float):
        return False
    return abs(_created(pid) - created) < 1.0


def _created(pid: int) -> float:
    """Return the time when a process started; 0 if there is no such process."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except (psutil.Error, ValueError):
        return 0.0


def _owner_in(file: int) -> _Owner:
    """Return the content of a lock file; empty if the file is new or was not written by a run."""
    os.lseek(file, 0, os.SEEK_SET)
    with suppress(ValueError):
        found = json.loads(os.read(file, _MAX_BYTES))
        if isinstance(found, dict):
            return found
    return {}


def _identity_at(path: Path) -> _Identity | None:
    try:
        return _identity(path.lstat())
    except OSError:
        return None


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino
