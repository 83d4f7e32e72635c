"""How much memory a model may take, and how much one took."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_headswap.harness.options import AUTO_MEMORY, memory_size

_SHARE = 0.8  # of what is free; the rest is for what pytest and others need meanwhile


@dataclass(frozen=True)
class Budget:
    """Bytes.

    Attributes:
        model: what a model may take beside what its process held before it; its process is ended when it takes more.
        values: what its values may take, with the copies that they are compared with; the rest is for arithmetic.
    """

    model: int
    values: int


def budget_of(asked: str, workers: int) -> Budget:
    """The budget of each worker; where none was asked for, its share of what the machine has free."""
    from pytest_headswap.case.build import MEMORY

    if asked != AUTO_MEMORY:
        size = memory_size(asked, "--headswap-memory")
        return Budget(size, size // 2)
    size = int(_SHARE * free_memory() / workers)
    return Budget(size, min(MEMORY, size // 2))  # not all there is, so that most machines have the same evidence


def free_memory() -> int:
    """What the machine, or the container, has left."""
    import psutil

    return min([int(psutil.virtual_memory().available), *_container_limits(Path("/sys/fs/cgroup"))])


def _container_limits(root: Path) -> list[int]:
    """The limits of the control groups that this process is in; none where there are none."""
    limits = []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        group = root / name
        with suppress(OSError, ValueError):
            limits.append(int(group.read_text(encoding="ascii")))
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        own = next(line[3:] for line in lines if line.startswith("0::"))
        for folder in [Path(own), *Path(own).parents]:
            with suppress(OSError, ValueError):
                limits.append(int((root / str(folder).lstrip("/") / "memory.max").read_text(encoding="ascii")))
    return limits


class Meter:
    """What memory this process takes from now on, at most."""

    def __init__(self, *, anew: bool = True) -> None:
        """Begin; `anew` makes the system forget what the process held at most before, where it can."""
        if anew:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self.before = held()

    def taken_mb(self) -> float | None:
        """The most that was held beside what was held before; None where the system does not tell."""
        try:
            import resource
        except ImportError:  # Windows
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)
        return round(max(0, peak - self.before) / 2**20, 1)


def held(pid: int | None = None) -> int:
    """Bytes that a process holds, this one where none is named."""
    import psutil

    return int(psutil.Process(pid).memory_info().rss)


def gib(count: int) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
