"""A fixture that builds cases of a model with switchable faults."""

from __future__ import annotations

from tests.faulty_net import make_case

__all__ = ["make_case"]
