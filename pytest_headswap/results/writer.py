"""Write a journal: lock its folder, and detect when another program deletes, replaces or changes the file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_headswap._text import pluralize
from pytest_headswap.results.journal import JOURNAL_NAME, JournalError, JournalHeader
from pytest_headswap.results.lock import FolderInUseError, FolderLock
from pytest_headswap.results.result import Result


def _line(data: Mapping[str, Any]) -> bytes:
    # ASCII, since a model's name may contain line breaks or characters that cannot be encoded
    return json.dumps(data).encode("ascii") + b"\n"


def lock_folder(folder: Path, command: str = "") -> FolderLock:
    """Lock a report folder for one run.

    Raises:
        JournalError: another run has the lock, or the folder is not writable.
    """
    try:
        return FolderLock(folder, command)
    except FolderInUseError as error:
        raise JournalError(str(error)) from error
    except OSError as error:
        raise _unwritable(folder, error) from error


class JournalWriter:
    """Writes the journal of one run. It replaces an older journal in the same folder atomically.

    If the journal is deleted during the run, the writer restores it. If another program replaces it, the writer leaves
    the new file alone and continues in a separate file.

    Args:
        folder: the folder of the journal.
        header: the first line of the journal.
        carried_over: results of an earlier run that this run resumes.
        lock: the lock of the folder, if the caller has one. Otherwise the writer locks the folder until it is closed.

    Attributes:
        path: the file with the results.
        notices: sentences about what happened to the journal. The caller prints and clears them.
        displaced: whether another program replaced the journal, so that `path` is a separate file.
        count: the number of results written.
    """

    def __init__(
        self, folder: Path, header: JournalHeader, carried_over: Iterable[Result] = (), lock: FolderLock | None = None
    ) -> None:
        self.path = folder / JOURNAL_NAME
        self.notices: list[str] = []
        self.displaced = False
        self._own_lock = lock_folder(folder) if lock is None else None
        self._lock = lock or self._own_lock
        self._file: FileIO | None = None
        self._size = 0
        lines = [header.to_json(), *(result.to_json() for result in carried_over)]
        self.count = len(lines) - 1
        try:
            self._begin(b"".join(map(_line, lines)))
        except OSError as error:
            self._release()
            raise _unwritable(folder, error) from error

    def write(self, result: Result) -> None:
        """Append a result. When this returns, the file contains it.

        Raises:
            JournalError: the result cannot be written. The journal is unchanged.
        """
        self._check_file()
        assert self._file is not None, "the writer is closed"
        line = _line(result.to_json())
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise JournalError(f"cannot write to {self.path}: {error.strerror or error}") from error
        self._size += len(line)
        self.count += 1

    def close(self) -> None:
        """Verify the file once more and close it. A second call does nothing.

        Raises:
            JournalError: the file does not contain the results written to it.
        """
        if self._file is None:
            return
        try:
            self._check_file()
        finally:
            self._file.close()
            self._file = None
            self._release()

    def _release(self) -> None:
        if self._own_lock is not None:
            self._own_lock.release()

    def _begin(self, content: bytes) -> None:
        """Replace the journal atomically by a file with this content, and continue writing there."""
        new = self.path.with_name(f"{self.path.name}.new")  # the old file stays until the new one is complete
        try:
            new.unlink(missing_ok=True)  # it may be a symbolic link to a file elsewhere
            new.write_bytes(content)
            if sys.platform == "win32" and self._file is not None:
                self._file.close()  # Windows cannot replace an open file
            new.replace(self.path)
        except OSError:
            with suppress(OSError):
                new.unlink()
            raise
        file = FileIO(self.path, "a+")
        if self._file is not None:
            self._file.close()
        self._file, self._size = file, len(content)

    def _check_file(self) -> None:
        """Verify that the file is in place and contains what was written to it; restore it if possible.

        Raises:
            JournalError: the file was changed, or cannot be restored.
        """
        assert self._file is not None, "the writer is closed"
        ours = os.fstat(self._file.fileno())
        if ours.st_size != self._size:
            raise JournalError(
                f"another program wrote to {self.path} during the run. The journal no longer holds the "
                f"{pluralize(self.count, 'result')} so far"
            )
        try:
            there: os.stat_result | None = self.path.stat()
        except OSError:
            there = None
        if there is None:
            self._restore()
        elif (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            self._move_away()

    def _restore(self) -> None:
        """Restore a deleted journal. The open file still has the content."""
        gone = f"{self.path} was deleted during the run"
        content = self._content()
        try:
            if self._lock is not None:
                self._lock.take()  # the lock file was deleted too, if the folder was
            self._begin(content)
        except FolderInUseError as error:
            raise JournalError(f"{gone}, and {error}") from error
        except OSError as error:
            raise JournalError(f"{gone}, and cannot be written again: {error.strerror or error}") from error
        self.notices.append(f"{gone}. It was written again, with {pluralize(self.count, 'result')} so far")

    def _move_away(self) -> None:
        """Continue in a file with another name, and leave the file that replaced the journal alone."""
        replaced, content = self.path, self._content()
        self.path = replaced.with_name(f"{replaced.stem}-{os.getpid()}{replaced.suffix}")
        try:
            self._begin(content)
        except OSError as error:
            self.path = replaced
            raise JournalError(
                f"another program replaced {replaced} during the run, and the results of this run cannot be written "
                f"next to it: {error.strerror or error}"
            ) from error
        self.displaced = True
        self.notices.append(
            f"another program replaced {replaced} during the run. The results of this run are in {self.path}"
        )

    def _content(self) -> bytes:
        """Return what was written so far."""
        assert self._file is not None, "the writer is closed"
        self._file.seek(0)
        return self._file.read()

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unwritable(folder: Path, error: OSError) -> JournalError:
    return JournalError(
        f"cannot write the report to {folder}: {error.strerror or error}. Choose a folder that can be written"
    )
