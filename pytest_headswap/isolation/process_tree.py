"""Find, measure and end what a model starts: processes and shared memory."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from pytest_headswap.harness.memory_budget import rss_bytes

MARK = "HEADSWAP_CHILD_PROCESS"
"""Environment variable with the id of a child process. What it starts inherits the variable."""

_SEGMENTS = Path("/dev/shm")
_SHARED_MEMORY = (f"{_SEGMENTS}/", "/memfd:", "/SYSV")  # how Linux names shared memory
_LISTS_CHILDREN = Path("/proc/thread-self/children").exists()
_SIZE = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)
_TRACKER = "multiprocessing.resource_tracker"  # a process of Python that deletes shared memory which others leave
_TRACKER_SECONDS = 1.0  # time for a tracker to do so


def descendants_of(pid: int) -> list[int]:
    """Return the ids of the processes that a process started, at any depth."""
    if not _LISTS_CHILDREN:
        with suppress(psutil.Error):
            return [process.pid for process in psutil.Process(pid).children(recursive=True)]
        return []
    found = [pid]
    for parent in found:
        found += children_of(parent)
    return found[1:]


def children_of(pid: int) -> list[int]:
    """Return the ids of the children of a process; Linux only."""
    with suppress(OSError):
        texts = [_read(f"{task}/children") for task in Path(f"/proc/{pid}/task").iterdir()]
        return [int(number) for text in texts for number in text.split()]
    return []


def tree_bytes(pid: int, descendants: Iterable[int]) -> int:
    """Return the bytes of memory that a process and its descendants hold. What they share counts once.

    On Linux this includes shared memory that is open but not mapped.
    """
    if sys.platform != "linux":
        own = 0
        with suppress(psutil.Error):
            own = rss_bytes(pid)
        return own + sum(map(_private_bytes, descendants))
    sizes = _sizes(f"/proc/{pid}/status")
    private, shared = sizes.get("VmRSS", 0) - sizes.get("RssShmem", 0), 0
    for child in descendants:
        rollup = _sizes(f"/proc/{child}/smaps_rollup")
        proportional = rollup.get("Pss_Shmem", 0)
        # of the shared memory that it maps, what no other process maps is in its private memory too
        unshared = max(0, 2 * proportional - _sizes(f"/proc/{child}/status").get("RssShmem", 0))
        private += max(0, rollup.get("Private_Clean", 0) + rollup.get("Private_Dirty", 0) - unshared)
        shared += proportional
    is_open = sum(_open_segments([pid, *descendants]).values())
    return private + max(shared, sizes.get("RssShmem", 0), is_open)


def _private_bytes(pid: int) -> int:
    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_full_info().uss)
    return 0


def _sizes(path: str) -> dict[str, int]:
    """Return the bytes that a file in /proc lists by name; empty if the process has ended."""
    return {name: int(number) * 2**10 for name, number in _SIZE.findall(_read(path))}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _open_segments(pids: Iterable[int]) -> dict[tuple[str, int], int]:
    """Return the bytes of the shared memory that processes hold open, by path and inode."""
    found: dict[tuple[str, int], int] = {}
    for pid in pids:
        with suppress(OSError):
            for file in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    path = str(file.readlink())
                    if path.startswith(_SHARED_MEMORY):
                        status = file.stat()
                        found[path, status.st_ino] = status.st_blocks * 512
    return found


def segments() -> set[Path]:
    """Return the shared memory of this machine that has a name; empty where it is no file."""
    with suppress(OSError):
        return set(_SEGMENTS.iterdir())
    return set()


def new_segments(pids: Iterable[int], known: set[Path]) -> set[Path]:
    """Return the shared memory with a name that processes hold open and that is not `known`."""
    new = segments() - known
    return new & {Path(path) for path, _ in _open_segments(pids)} if new else new


class StartedByModel:
    """The processes that this process started, and its shared memory, at the time of creation; Linux only."""

    def __init__(self) -> None:
        self._children = set(children_of(os.getpid()))
        self._segments = segments()

    def changes(self) -> Iterator[str]:
        """Yield descriptions of what was started since the last call and still exists."""
        children = set(children_of(os.getpid()))
        self._children &= children
        for child in sorted(children - self._children):
            command = _read(f"/proc/{child}/cmdline").replace("\0", " ").strip()
            if command:  # a process that is about to start, or has ended, has no command line
                self._children.add(child)
                if _TRACKER not in command:
                    yield f"a process that it started runs: {command[:80]}"
        for path in sorted(new_segments([os.getpid()], self._segments)):
            yield f"it created shared memory: {path}"
        self._segments = segments()


def end_processes(leader: int, known: Iterable[psutil.Process], *, crashed: bool) -> None:
    """Kill what a child process started, now that the child process has ended.

    Args:
        leader: the id of the child process, which led a process group.
        known: processes that it started.
        crashed: whether it ended by itself. What it started is then looked for among all processes.
    """
    started = [*known, *(_marked_processes(leader) if crashed else ())]
    trackers = [process for process in started if _is_tracker(process)]
    for process in started:
        if process not in trackers:
            with suppress(psutil.Error):
                process.kill()
    psutil.wait_procs(trackers, _TRACKER_SECONDS)
    if sys.platform != "win32":
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, 9)


def _is_tracker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return _TRACKER in " ".join(process.cmdline())
    return False


def _marked_processes(leader: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            is_in_group = sys.platform != "win32" and os.getpgid(process.pid) == leader
            if is_in_group or process.environ().get(MARK) == str(leader):
                yield process
