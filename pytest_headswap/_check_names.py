"""The names of the built-in checks, in the order in which they run."""

from __future__ import annotations

CHECK_NAMES = (
    *("output_shape", "native_parity", "metadata", "state_dict"),
    *("gradient_flow", "frozen_backbone", "round_trip", "device_placement"),
)
"""The names of the checks that every model gets: importing the checks themselves imports torch."""

OPT_IN_CHECK_NAMES = ("amp", "grad_checkpointing", "export", "hub_round_trip", "compile", "onnx")
"""The names of the checks that run only on request."""
