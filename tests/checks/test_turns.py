"""Processes on one device: together, or one alone. The CPU stands in for the device; locks are the system's."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from pytest_headswap.checks import gpu_lock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no lock on Windows")
CPU = torch.device("cpu")
LONG, SHORT = 60.0, 0.3  # seconds


@pytest.fixture(autouse=True)
def _locks_of_this_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_lock, "_lock_file", lambda _: tmp_path / "lock")


class Other:
    """Another process that takes its turn, says so, and ends it when it is told to."""

    def __init__(self, alone: bool) -> None:
        fork = multiprocessing.get_context("fork")  # it has no tensors to do with
        self._end, theirs = fork.Pipe()
        self.process = fork.Process(target=_take_turn, args=(theirs, alone), daemon=True)
        self.process.start()

    def is_in(self, seconds: float) -> bool:
        return self._end.poll(seconds)

    def leave(self) -> None:
        self._end.send("leave")
        self.process.join(LONG)


def _take_turn(end: Connection, alone: bool) -> None:
    with gpu_lock._device_lock(CPU, exclusive=alone):
        end.send("in")
        end.recv()


@pytest.fixture
def other() -> Iterator[Callable[..., Other]]:
    made: list[Other] = []

    def start(*, alone: bool = False) -> Other:
        made.append(Other(alone))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()


def test_several_are_in_together(other: Callable[..., Other]) -> None:
    assert other().is_in(LONG)
    assert other().is_in(LONG)


def test_who_has_to_be_alone_waits_until_all_are_out_and_keeps_others_out(other: Callable[..., Other]) -> None:
    first = other()
    assert first.is_in(LONG)
    alone = other(alone=True)
    assert not alone.is_in(SHORT)
    late = other()
    assert not late.is_in(SHORT)
    first.leave()
    assert alone.is_in(LONG)
    assert not late.is_in(SHORT)
    alone.leave()
    assert late.is_in(LONG)


def test_who_dies_keeps_nobody_out(other: Callable[..., Other]) -> None:
    alone = other(alone=True)
    assert alone.is_in(LONG)
    alone.process.kill()
    assert other().is_in(LONG)


def _run(errors: list[Exception]) -> Callable[[], str]:
    def run() -> str:
        if errors:
            raise errors.pop(0)
        return "result"

    return run


def test_only_where_memory_is_missing_it_is_run_once_more() -> None:
    assert gpu_lock.run_with_device_memory(CPU, _run([torch.cuda.OutOfMemoryError("CUDA out of memory.")])) == "result"
    assert (
        gpu_lock.run_with_device_memory(CPU, _run([RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when ...")]))
        == "result"
    )
    with pytest.raises(torch.cuda.OutOfMemoryError):
        gpu_lock.run_with_device_memory(CPU, _run([torch.cuda.OutOfMemoryError("CUDA out of memory.")] * 2))
    with pytest.raises(RuntimeError, match="illegal"):
        gpu_lock.run_with_device_memory(CPU, _run([RuntimeError("CUDA error: an illegal memory access")]))


def test_the_second_time_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bool] = []

    def turn(_: torch.device, *, exclusive: bool) -> AbstractContextManager[None]:
        taken.append(exclusive)
        return nullcontext()

    monkeypatch.setattr(gpu_lock, "_device_lock", turn)
    gpu_lock.run_with_device_memory(CPU, _run([torch.cuda.OutOfMemoryError("CUDA out of memory.")]))
    assert taken == [False, True]


def test_without_a_place_for_the_lock_there_are_no_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_lock, "_lock_file", lambda _: tmp_path / "no" / "such" / "folder")
    assert gpu_lock.run_with_device_memory(CPU, _run([torch.cuda.OutOfMemoryError("CUDA out of memory.")])) == "result"
