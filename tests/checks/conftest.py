"""A fixture that builds cases of a model into which faults can be planted."""

from __future__ import annotations

from tests.faulty_net import make_case

__all__ = ["make_case"]
