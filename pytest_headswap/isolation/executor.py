"""The interface of executors, which build and check models one at a time, in this process or in a child process."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pytest_headswap.case.finding import Finding
    from pytest_headswap.checks import Check
    from pytest_headswap.zoo import Zoo

TooLarge = Mapping[tuple[str, str], float]
"""Zoo and model of models known to exceed the memory budget, with the MiB that they took."""


@dataclass(frozen=True)
class Built:
    """A built model, or the reason why it has no head and its checks are skipped.

    Attributes:
        anatomy: the swapped heads, as returned by `build_result.anatomy_of`.
        reason, message: why the model has no head; empty if it has one.
        notes: notes for the model's results.
    """

    anatomy: dict[str, Any] | None = None
    reason: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """The finding of a check, and the peak memory of the model so far."""

    finding: Finding
    taken_mb: float | None = None
    notes: tuple[str, ...] = ()


class Bench(Protocol):
    """Builds and checks models, one at a time."""

    @property
    def elsewhere(self) -> bool:
        """Whether models run in another process."""

    def build(self, zoo: Zoo, model: str) -> Built:
        """Build a model and swap its head. Raises whatever the model raises."""

    def check(self, check: Check) -> Checked:
        """Run a check on the model."""

    def release(self) -> None:
        """Release the model."""

    def close(self) -> None:
        """Release all resources; no call follows."""


def warn_unprotected(why: str) -> None:
    """Warn that models run in the pytest process instead of a child process."""
    message = f"headswap: models run in the process of pytest, without limits of time and memory: {why}"
    warnings.warn(message, stacklevel=2)
