"""Fixture for cases with faults."""

from __future__ import annotations

from tests.faulty_net import make_case

__all__ = ["make_case"]
