"""Where models are built and checked, one after the other: in the process that asks, or in one of their own."""

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
"""Zoo and model of those that are known to take more memory than they may, with the MB that they took."""


@dataclass(frozen=True)
class Built:
    """A model is there; or it has no head, and the checks are skipped.

    Attributes:
        anatomy: the heads that were swapped, as `build_result.anatomy_of` tells them.
        reason, message: why there is none; empty where there is one.
        notes: what else is to be told of the model.
    """

    anatomy: dict[str, Any] | None = None
    reason: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """What a check found, and what it took: the most memory that the model had taken by then."""

    finding: Finding
    taken_mb: float | None = None
    notes: tuple[str, ...] = ()


class Bench(Protocol):
    """Holds one model at a time."""

    @property
    def elsewhere(self) -> bool:
        """Whether models are in another process than this one."""

    def build(self, zoo: Zoo, model: str) -> Built:
        """Build a model and swap its head. Raises whatever the model raises."""

    def check(self, check: Check) -> Checked:
        """Make a check on the model."""

    def release(self) -> None:
        """Let go of the model."""

    def close(self) -> None:
        """Nothing is asked any more."""


def warn_unprotected(why: str) -> None:
    """Say that models are in the process of pytest, where they were to have one of their own."""
    message = f"headswap: models run in the process of pytest, without limits of time and memory: {why}"
    warnings.warn(message, stacklevel=2)
