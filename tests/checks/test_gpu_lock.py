"""Processes share one device, or one has it exclusively. The CPU stands in for the device; the locks are real."""

from __future__ import annotations

import errno
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from pytest_headswap.checks import gpu_lock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="these tests fork")
CPU = torch.device("cpu")
LONG, SHORT = 60.0, 0.3  # seconds


@pytest.fixture(autouse=True)
def _locks_of_this_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_lock, "_lock_file", lambda _: tmp_path / "lock")


class Other:
    """Another process that enters the device, reports it, and leaves when told to."""

    def __init__(self, exclusive: bool) -> None:
        fork = multiprocessing.get_context("fork")  # the process uses no tensors
        self._end, theirs = fork.Pipe()
        self.process = fork.Process(target=_enter, args=(theirs, exclusive), daemon=True)
        self.process.start()

    def is_in(self, seconds: float) -> bool:
        return self._end.poll(seconds)

    def leave(self) -> None:
        self._end.send("leave")
        self.process.join(LONG)


def _enter(end: Connection, exclusive: bool) -> None:
    with gpu_lock._device_lock(CPU, exclusive=exclusive):
        end.send("in")
        end.recv()


@pytest.fixture
def other() -> Iterator[Callable[..., Other]]:
    made: list[Other] = []

    def start(*, exclusive: bool = False) -> Other:
        made.append(Other(exclusive))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()


def test_several_processes_share_the_device(other: Callable[..., Other]) -> None:
    assert other().is_in(LONG)
    assert other().is_in(LONG)


def test_exclusive_access_waits_for_other_processes_and_keeps_new_ones_out(
    other: Callable[..., Other],
) -> None:
    first = other()
    assert first.is_in(LONG)
    exclusive = other(exclusive=True)
    assert not exclusive.is_in(SHORT)
    late = other()
    assert not late.is_in(SHORT)
    first.leave()
    assert exclusive.is_in(LONG)
    assert not late.is_in(SHORT)
    exclusive.leave()
    assert late.is_in(LONG)


def test_the_lock_of_a_dead_process_is_released(other: Callable[..., Other]) -> None:
    exclusive = other(exclusive=True)
    assert exclusive.is_in(LONG)
    exclusive.process.kill()
    assert other().is_in(LONG)


def _run(errors: list[Exception]) -> Callable[[], str]:
    def run() -> str:
        if errors:
            raise errors.pop(0)
        return "result"

    return run


def test_only_an_out_of_memory_error_is_retried() -> None:
    assert gpu_lock.run_with_device_memory(CPU, _run([torch.cuda.OutOfMemoryError("CUDA out of memory.")])) == "result"
    assert (
        gpu_lock.run_with_device_memory(CPU, _run([RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when ...")]))
        == "result"
    )
    with pytest.raises(torch.cuda.OutOfMemoryError):
        gpu_lock.run_with_device_memory(CPU, _run([torch.cuda.OutOfMemoryError("CUDA out of memory.")] * 2))
    with pytest.raises(RuntimeError, match="illegal"):
        gpu_lock.run_with_device_memory(CPU, _run([RuntimeError("CUDA error: an illegal memory access")]))


def test_each_process_gives_its_unused_memory_back_before_it_waits_for_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name of the device is enough here: nothing runs on it."""
    events: list[str] = []

    def turn(_: torch.device, *, exclusive: bool) -> AbstractContextManager[None]:
        events.append("exclusive" if exclusive else "shared")
        return nullcontext()

    monkeypatch.setattr(gpu_lock, "_device_lock", turn)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: events.append("memory given back"))
    run = _run([torch.cuda.OutOfMemoryError("CUDA out of memory.")])
    assert gpu_lock.run_with_device_memory(torch.device("cuda"), run) == "result"
    assert events == ["shared", "memory given back", "exclusive", "memory given back"]


def test_the_retry_has_exclusive_access(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bool] = []

    def turn(_: torch.device, *, exclusive: bool) -> AbstractContextManager[None]:
        taken.append(exclusive)
        return nullcontext()

    monkeypatch.setattr(gpu_lock, "_device_lock", turn)
    gpu_lock.run_with_device_memory(CPU, _run([torch.cuda.OutOfMemoryError("CUDA out of memory.")]))
    assert taken == [False, True]


def test_a_forked_child_neither_releases_the_lock_nor_keeps_it(other: Callable[..., Other]) -> None:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(LONG,), daemon=True)
    with gpu_lock._device_lock(CPU, exclusive=True):
        child.start()
        late = other()
        assert not late.is_in(SHORT)
    assert late.is_in(LONG)
    child.kill()


def test_without_a_folder_for_the_lock_the_device_is_used_without_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(gpu_lock, "_lock_file", lambda _: tmp_path / "file" / "lock")
    assert gpu_lock.run_with_device_memory(CPU, _run([torch.cuda.OutOfMemoryError("CUDA out of memory.")])) == "result"


def test_without_locks_of_the_file_system_the_device_is_used_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert gpu_lock.run_with_device_memory(CPU, _run([torch.cuda.OutOfMemoryError("CUDA out of memory.")])) == "result"
