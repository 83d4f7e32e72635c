"""The interface of executors, which build and check models one at a time, in this process or in a child process."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pytest_headswap.case.finding import Finding
    from pytest_headswap.checks import Check
    from pytest_headswap.results.head_record import SwappedHeads
    from pytest_headswap.zoo import Zoo

OversizedModels = Mapping[tuple[str, str], float]
"""Zoo and model of models known to exceed the memory budget, with the MiB that they took."""


@dataclass(frozen=True)
class BuildReply:
    """A built model, or the reason why it has no head and its checks are skipped.

    Attributes:
        anatomy: the swapped heads; None if there is none.
        reason, message: why the model has no head; empty if it has one.
        notes: notes for the model's results.
        without_head: whether the model, which has no head, can be built for checks that need none.
    """

    anatomy: SwappedHeads | None = None
    reason: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()
    without_head: bool = False


@dataclass(frozen=True)
class CheckReply:
    """The finding of a check, and the peak memory of the model so far."""

    finding: Finding
    peak_memory_mb: float | None = None
    notes: tuple[str, ...] = ()


class Executor(Protocol):
    """Builds and checks models, one at a time."""

    @property
    def runs_in_subprocess(self) -> bool:
        """Whether models run in another process."""

    def build(self, zoo: Zoo, model: str) -> BuildReply:
        """Build a model and swap its head. Raises whatever the model raises."""

    def check(self, check: Check) -> CheckReply:
        """Run a check on the model."""

    def release(self) -> None:
        """Release the model."""

    def close(self) -> None:
        """Release all resources; no call follows."""


def warn_unsupported() -> None:
    """Warn about what child processes cannot do on this system."""
    missing: list[str] = []
    if sys.platform != "linux":
        missing += ["processes and shared memory that a model leaves behind", "memory that is shared but not mapped"]
    if sys.platform == "win32":
        missing += ["the location of a timeout in the code", "changed limits of the process"]
    if missing:
        warnings.warn(f"headswap: on this system, results do not show {', '.join(missing)}", stacklevel=2)


def warn_not_isolated(reason: str) -> None:
    """Warn that models run in the pytest process instead of a child process."""
    message = f"headswap: models run in the pytest process, without limits on time and memory: {reason}"
    warnings.warn(message, stacklevel=2)
