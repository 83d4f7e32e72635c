"""Fixture that writes journals to read, merge and compare."""

from __future__ import annotations

from tests.journals import write

__all__ = ["write"]
