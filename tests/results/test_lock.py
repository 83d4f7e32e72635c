"""Only one run at a time has a report folder, and the lock of a dead process blocks no other."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pytest_headswap.results.lock import LOCK_NAME, FolderInUseError, FolderLock

HOLD = """
import sys, time
from pathlib import Path
from pytest_headswap.results.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), "pytest --headswap-zoo=timm")
print("held", flush=True)
sys.stdin.readline()
lock.release()
"""
HELP = (
    r"the report folder .* is in use: process {pid} on .* \(.*\), which started .*Wait until it ends, or choose another"
)


def _holds(lock: FolderLock) -> bool:
    """Return whether a lock is held now."""
    return lock.held


@contextmanager
def _held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that holds the lock of a folder."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        yield holder
    finally:
        holder.kill()
        holder.wait()


def test_the_lock_creates_its_folder_and_deletes_its_file(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "deep" / "report", "pytest -x")
    owner = json.loads(lock.path.read_text())
    assert (owner["pid"], owner["command"]) == (os.getpid(), "pytest -x")
    assert _holds(lock)
    lock.release()
    lock.release()
    assert not _holds(lock)
    assert list((tmp_path / "deep" / "report").iterdir()) == []


def test_a_second_process_is_refused_and_the_message_names_the_owner(tmp_path: Path) -> None:
    with _held_elsewhere(tmp_path) as holder:
        with pytest.raises(FolderInUseError, match=HELP.format(pid=holder.pid)) as caught:
            FolderLock(tmp_path)
        assert "(pytest --headswap-zoo=timm)" in str(caught.value)
        holder.communicate("\n")
    FolderLock(tmp_path).release()


def test_a_second_lock_in_the_same_process_is_refused_and_the_first_still_holds(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path, "pytest first")
    for _ in range(2):
        with pytest.raises(FolderInUseError, match=HELP.format(pid=os.getpid())):
            FolderLock(tmp_path, "pytest second")
    other = subprocess.run([sys.executable, "-c", HOLD, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "FolderInUseError" in other.stderr, "the first still holds it against other processes"
    lock.release()
    FolderLock(tmp_path).release()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_the_lock_of_a_killed_process_can_be_taken(tmp_path: Path) -> None:
    with _held_elsewhere(tmp_path) as holder:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert (tmp_path / LOCK_NAME).exists()
    lock = FolderLock(tmp_path)
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    lock.release()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[1]", b'{"pid": "x"}', b"\xff\x00"])
def test_a_lock_file_with_other_content_is_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_NAME).write_bytes(content)
    lock = FolderLock(tmp_path)
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    lock.release()


def test_a_lock_whose_folder_was_deleted_is_not_held_and_can_be_taken_again(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "report")
    lock.path.unlink()
    lock.folder.rmdir()
    assert not _holds(lock)
    lock.take()
    assert _holds(lock)
    lock.release()


def test_a_deleted_lock_that_another_process_has_taken_cannot_be_taken_again(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.path.unlink()
    with _held_elsewhere(tmp_path) as holder:
        with pytest.raises(FolderInUseError, match=str(holder.pid)):
            lock.take()
        lock.release()
        assert (tmp_path / LOCK_NAME).exists(), "the file is that of the other process"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_does_not_release_the_lock(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    pid = os.fork()
    if pid == 0:
        lock.release()
        os._exit(0)
    os.waitpid(pid, 0)
    assert lock.held
    lock.release()


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the file system refuse locks."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)


@pytest.mark.usefixtures("without_locks")
def test_without_file_system_locks_the_process_in_the_file_is_looked_up(tmp_path: Path) -> None:
    with _held_elsewhere(tmp_path) as holder:
        with pytest.raises(FolderInUseError, match=HELP.format(pid=holder.pid)):
            FolderLock(tmp_path)
        holder.kill()
        holder.wait()
        FolderLock(tmp_path).release()


@pytest.mark.usefixtures("without_locks")
@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({}, False),
        ({"host": "another-machine", "pid": 2**22 + 1}, False),
        ({"pid": 2**22 + 1}, True),
        ({"created": 1.0}, True),
        ({"pid": None}, True),
    ],
)
def test_without_file_system_locks_a_reused_process_id_is_not_the_owner(
    tmp_path: Path, changes: dict[str, object], free: bool
) -> None:
    parent = psutil.Process(os.getppid())
    owner = {"pid": parent.pid, "created": parent.create_time(), "host": os.uname().nodename, **changes}
    (tmp_path / LOCK_NAME).write_text(json.dumps(owner))
    if free:
        FolderLock(tmp_path).release()
    else:
        with pytest.raises(FolderInUseError):
            FolderLock(tmp_path)


def test_a_lock_file_that_is_replaced_each_time_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_headswap.results.lock._identity_at", lambda path: None)
    with pytest.raises(FolderInUseError):
        FolderLock(tmp_path)
