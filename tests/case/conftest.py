"""Cases made of a model with a switch for each fault."""

from __future__ import annotations

from tests.faulty_net import make_case

__all__ = ["make_case"]
