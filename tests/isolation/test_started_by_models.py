"""What a model starts counts as the model's memory, is noted, and ends with the model."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_headswap.isolation.process_tree import StartedByModel, descendants_of, tree_bytes
from pytest_headswap.results import Result
from tests.isolation.test_isolation import has_ended

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell all of this")

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

ZOO = "--headswap-zoo=testzoo"
ONE = "--headswap-checks=output_shape"

STARTING = """
import mmap, subprocess, sys, threading, time
from multiprocessing.shared_memory import SharedMemory

def note(pid):
    with open("started.txt", "a") as file:
        file.write(f"{pid}\\n")

class Sleeping(Net):
    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        note(subprocess.Popen(["sleep", "3000"]).pid)

class Detached(Net):
    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        command = "setsid sleep 3001 > pid.txt & echo $!"
        note(subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, check=True).stdout.decode().strip())

def daemonized():
    if not (first := os.fork()):
        os.setsid()
        if not os.fork():
            note(os.getpid())
            time.sleep(3000)
        os._exit(0)
    os.waitpid(first, 0)
    time.sleep(0.5)
    return Net()

def dying():
    note(subprocess.Popen(["sleep", "3002"], start_new_session=True).pid)
    os.kill(os.getpid(), 9)

def threaded():
    threading.Thread(target=time.sleep, args=(3000,), daemon=True).start()
    return Net()

KEPT = []

def leaving():
    KEPT.append(SharedMemory(create=True, size=100, name=f"headswap-left-{os.getpid()}"))
    forgotten = SharedMemory(create=True, size=100, name=f"headswap-forgotten-{os.getpid()}")
    KEPT.append(open(f"/dev/shm/headswap-file-{os.getpid()}", "wb"))
    return Net()

def sound():
    done = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True)
    memory = SharedMemory(create=True, size=100)
    memory.close()
    memory.unlink()
    return Net()

SPECS = {name: dict(build=globals()[name]) for name in ("daemonized", "dying", "leaving", "sound", "threaded")}
SPECS |= {"detached": dict(build=Detached), "sleeping": dict(build=Sleeping)}
"""


@pytest.mark.parametrize("isolation", ["fork", "spawn"])
def test_what_a_model_starts_is_noted_and_ends_with_it(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, isolation: str
) -> None:
    extend_conftest(STARTING)
    done = project.runpytest_subprocess(ZOO, ONE, f"--headswap-isolation={isolation}")
    done.assert_outcomes(passed=6, failed=1)
    messages = {item.model: item.message for item in journal().values()}
    assert "a process that it started runs: sleep 3000" in messages["sleeping"]
    assert messages["detached"].endswith("sleep 3001")  # perhaps still as `setsid sleep 3001`
    assert "a process that it started runs: " in messages["daemonized"]
    assert "threading.active_count() is " in messages["threaded"]
    assert "it created shared memory: /dev/shm/headswap-left-" in messages["leaving"]
    assert "it created shared memory: /dev/shm/headswap-file-" in messages["leaving"]
    assert messages["sound"] == ""
    started = [int(line) for line in (project.path / "started.txt").read_text().splitlines()]
    assert len(started) >= 4
    until = time.monotonic() + 20
    while not all(map(has_ended, started)) and time.monotonic() < until:
        time.sleep(0.02)
    assert [pid for pid in started if not has_ended(pid)] == []
    while (left := [*Path("/dev/shm").glob("headswap-*")]) and time.monotonic() < until:
        time.sleep(0.02)
    assert left == []


FILLING = """
import mmap, subprocess, sys, time
from multiprocessing.shared_memory import SharedMemory
SIZE = 500 * 2**20
EAT = f"import time; eaten = bytearray({SIZE}); time.sleep(100)"

class Parent(Net):
    def forward(self, x):
        subprocess.run([sys.executable, "-c", EAT], check=True)

class Distant(Net):
    def forward(self, x):
        subprocess.run(["setsid", "-w", sys.executable, "-c", EAT], check=True)

class Unmapped(Net):
    def forward(self, x):
        file = os.memfd_create("unmapped")
        for _ in range(SIZE // 2**20):
            os.write(file, bytes(2**20))
        time.sleep(100)

class Shared(Net):
    def forward(self, x):
        memory = SharedMemory(create=True, size=SIZE)
        memory.buf[:] = bytes(1) * SIZE
        time.sleep(100)

class Anonymous(Net):
    def forward(self, x):
        memory = mmap.mmap(-1, SIZE)
        for child in range(2):
            if not os.fork():
                for place in range(0, SIZE, 4096):
                    memory[place] = 1
                time.sleep(100)
        time.sleep(100)

class Tensors(Net):
    def forward(self, x):
        self.values = [torch.ones(2**22).share_memory_() for _ in range(SIZE // 2**24)]
        time.sleep(100)

class Frugal(Net):
    # four processes look at the same memory
    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        values = torch.ones(40 * 2**20).share_memory_()
        children = []
        for _ in range(3):
            if not (child := os.fork()):
                float(values.sum())
                time.sleep(1)
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)

SPECS = {kind.__name__: dict(build=kind) for kind in (Parent, Distant, Unmapped, Shared, Anonymous, Tensors, Frugal)}
"""


def test_memory_of_processes_and_shared_memory_counts_once(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(FILLING)
    before = {*Path("/dev/shm").iterdir()}
    project.runpytest_subprocess(ZOO, ONE, "--headswap-memory-limit=400MiB", "--headswap-timeout=60")
    results = {item.model: item for item in journal().values()}
    frugal = results.pop("Frugal")
    assert (frugal.outcome, frugal.message) == ("passed", "")
    assert 150 < (frugal.peak_memory_mb or 0) < 400
    assert {model: item.outcome for model, item in results.items()} == dict.fromkeys(results, "crashed")
    for item in results.values():
        assert "more than the 400 MiB of --headswap-memory-limit" in item.message
    assert not [path for path in Path("/dev/shm").iterdir() if path not in before and path.name.startswith("psm_")]


def test_only_what_a_process_starts_is_among_its_descendants_and_memory() -> None:
    before, state = descendants_of(os.getpid()), StartedByModel()
    started = subprocess.Popen(["sleep", "100"])
    assert set(descendants_of(os.getpid())) == {*before, started.pid}, "in no order"
    until, changes = time.monotonic() + 20, list(state.changes())
    while not changes and time.monotonic() < until:  # it may be about to start
        changes = list(state.changes())
    assert changes == ["a process that it started runs: sleep 100"]
    assert list(state.changes()) == []
    started.kill()
    started.wait()
    assert set(descendants_of(os.getpid())) == set(before)
    held = tree_bytes(os.getpid(), [])
    memory = bytearray(50 * 2**20)
    assert 45 * 2**20 < tree_bytes(os.getpid(), []) - held < 55 * 2**20
    del memory
    assert tree_bytes(2**22 + 1, []) == 0
