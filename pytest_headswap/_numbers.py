"""Read whole numbers of any integer type, without importing the library that defines the type."""

from __future__ import annotations

import operator
from typing import Any


def as_count(value: Any) -> int | None:
    """Return a Python or NumPy integer, or an integer tensor without dimensions, as `int`; None for anything else."""
    try:
        dtype: Any = getattr(value, "dtype", type(value))
        if "bool" in str(dtype) or getattr(value, "shape", None):
            return None
        return operator.index(value)
    except Exception:  # noqa: BLE001 - not an integer, a tensor without a value, or an object that refuses to be read
        return None
