"""Work out how much memory a model may take, and measure how much it took."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_headswap.case.options import AUTO
from pytest_headswap.harness.options import parse_memory_size

_FREE_FRACTION = 0.8  # of the free memory; the rest is for pytest and other processes


@dataclass(frozen=True)
class MemoryBudget:
    """A memory budget in bytes.

    Attributes:
        process_bytes: limit of a model on top of the memory that its process held before. A child process that exceeds
            it is killed.
        tensor_bytes: limit of the model's values, including the copies for comparison. The rest is for arithmetic.
    """

    process_bytes: int
    tensor_bytes: int


def resolve_memory_budget(limit: str, workers: int, free_bytes: int | None = None) -> MemoryBudget:
    """Return the budget of each worker; for `auto`, its share of the free memory, by default that of this machine."""
    from pytest_headswap.case.build import DEFAULT_TENSOR_BYTES

    if limit != AUTO:
        size = parse_memory_size(limit, "--headswap-memory-limit")
        return MemoryBudget(size, size // 2)
    size = int(_FREE_FRACTION * (available_memory() if free_bytes is None else free_bytes) / workers)
    return MemoryBudget(
        size, min(DEFAULT_TENSOR_BYTES, size // 2)
    )  # capped, so that most machines get the same evidence


def available_memory() -> int:
    """Return the bytes of memory left on the machine or in the container."""
    import psutil

    return min([int(psutil.virtual_memory().available), *_cgroup_limits(Path("/sys/fs/cgroup"))])


def _cgroup_limits(root: Path) -> list[int]:
    """Return the memory limits of the control groups of this process; empty if there are none."""
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


class MemoryMeter:
    """Measures the peak memory that this process takes from now on."""

    def __init__(self, *, reset_peak: bool = True) -> None:
        """Start measuring. `reset_peak` resets the peak that the system records, if possible."""
        if reset_peak:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self.baseline_rss = rss_bytes()

    def peak_mb(self) -> float | None:
        """Return the peak memory in MiB above the starting point; None if the system does not report it."""
        try:
            import resource
        except ImportError:  # Windows
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)
        return round(max(0, peak - self.baseline_rss) / 2**20, 1)


def rss_bytes(pid: int | None = None) -> int:
    """Return the resident memory in bytes of a process, by default this one."""
    import psutil

    return int(psutil.Process(pid).memory_info().rss)
