"""Read whole numbers of any integer type, without importing what made them."""

from __future__ import annotations

import operator
from typing import Any


def as_count(value: Any) -> int | None:
    """Return a whole number as `int`: an `int`, one of NumPy, or a tensor of one integer. None for everything else."""
    dtype: Any = getattr(value, "dtype", type(value))
    if "bool" in str(dtype) or getattr(value, "shape", None):
        return None
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):  # no integer, or a tensor without a value
        return None
