"""Run pytest on a changed package in forks of this process, which has imported torch but not the package."""

from __future__ import annotations

import builtins
import contextlib
import json
import marshal
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from conformance.mutation.hook import sitecustomize

HOOK = Path(sitecustomize.__file__).parent
TIMED_OUT = -1
Job = tuple[Callable[[], "Fork"], Callable[["Fork", int], None]]
"""A function that starts a fork, and one that takes it and its exit status when it has ended."""


class Watch:
    """A pytest plugin that records each test: its outcome, its seconds and the marks that it reaches."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._failed = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Write one line per test."""
        hits: Any = getattr(builtins, "mutation_hits", b"")
        if hits:
            hits[:] = bytes(len(hits))
        self._failed, start = False, time.perf_counter()
        result = yield
        line = {
            "test": item.nodeid,
            "failed": self._failed,
            "seconds": round(time.perf_counter() - start, 3),
            "hits": [index for index, byte in enumerate(hits[:]) if byte],
        }
        append(self._journal, line)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember failures."""
        self._failed |= report.failed


class Fork:
    """A process that runs tests on a changed package."""

    def __init__(self, folder: Path, changed: Iterable[tuple[str, CodeType]], marks: int = 0) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for module, code in changed:
            (folder / f"{module}.code").write_bytes(marshal.dumps(code))
        (folder / "hits").write_bytes(bytes(marks))
        self.output = folder / "output"
        self._folder, self._marks = folder, marks
        self._start = self._limit = 0.0
        self._pid = 0

    def start(self, root: Path, arguments: Iterable[str], limit: float) -> Fork:
        """Start pytest in the folder `root`, with a limit in seconds."""
        sys.stdout.flush()
        self._start, self._limit = time.monotonic(), limit
        self._pid = os.fork()
        if not self._pid:
            status = 70
            try:
                status = self._pytest(root, arguments)
            finally:
                sys.stdout.flush()
                os._exit(status)
        return self

    def _pytest(self, root: Path, arguments: Iterable[str]) -> int:
        os.setsid()
        output = os.open(self.output, os.O_WRONLY | os.O_CREAT)
        for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.chdir(root)
        os.environ[sitecustomize.CHANGED] = str(self._folder)
        if self._marks:
            os.environ[sitecustomize.HITS] = str(self._folder / "hits")
            sitecustomize.open_hits()
        options = ("-q", "-p", "no:cacheprovider", f"--basetemp={self._folder / 'tmp'}")
        return int(pytest.main([*options, *arguments], plugins=[Watch(self._folder / "tests.jsonl")]))

    def ended(self) -> int | None:
        """Return the exit status of pytest, `TIMED_OUT` at the limit, and None while it runs."""
        done, status = os.waitpid(self._pid, os.WNOHANG)
        if not done and self.seconds < self._limit:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)  # also ends what the tests left running
        if done:
            return os.waitstatus_to_exitcode(status)
        os.waitpid(self._pid, 0)
        return TIMED_OUT

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.monotonic() - self._start

    def tests(self) -> list[dict[str, Any]]:
        """Return the lines of the tests that have run."""
        return read(self._folder / "tests.jsonl")

    def remove(self) -> None:
        """Remove the files of the process."""
        shutil.rmtree(self._folder, ignore_errors=True)


def run_jobs(waiting: list[Job], workers: int) -> None:
    """Run the jobs, at most `workers` at a time, from the last to the first. A job that ends may add another."""
    running: list[tuple[Fork, Callable[[Fork, int], None]]] = []
    while waiting or running:
        while waiting and len(running) < workers:
            start, finish = waiting.pop()
            running.append((start(), finish))
        time.sleep(0.02)
        for item in list(running):
            fork, finish = item
            status = fork.ended()
            if status is not None:
                running.remove(item)
                finish(fork, status)


def read(journal: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal; none if it does not exist."""
    return [json.loads(line) for line in journal.read_text("utf-8").splitlines()] if journal.exists() else []


def append(journal: Path, line: dict[str, Any]) -> None:
    """Add one line to a journal."""
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
