"""What the first process sends to the workers of xdist, and to the processes that it spawns for models."""

from __future__ import annotations

from typing import Any

import pytest

SPAWNED = pytest.StashKey[dict[str, Any]]()
"""The data of a spawned process. It has no `workerinput`: other plugins would take it for a worker of xdist."""


def controller_data(config: pytest.Config) -> dict[str, Any] | None:
    """Return the data that this process was sent, or None in the first process."""
    data: dict[str, Any] | None = getattr(config, "workerinput", None)
    return config.stash.get(SPAWNED, data)
