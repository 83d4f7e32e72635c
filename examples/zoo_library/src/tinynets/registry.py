"""The architectures by name. Each factory takes `num_classes`, so pytest-headswap accepts the dict as a zoo."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {}

Architecture = TypeVar("Architecture", bound=type[nn.Module])


def register(name: str) -> Callable[[Architecture], Architecture]:
    """Register a model under a name."""

    def keep(architecture: Architecture) -> Architecture:
        ARCHITECTURES[name] = architecture
        return architecture

    return keep


def create_model(name: str, num_classes: int = 10) -> nn.Module:
    """Build an architecture with random weights."""
    return ARCHITECTURES[name](num_classes=num_classes)


def list_models() -> list[str]:
    """Return the sorted names of all architectures."""
    return sorted(ARCHITECTURES)
