"""The checks. Each is a function of a case in a file of its own; none knows pytest."""

from __future__ import annotations

from pytest_headswap.checks.registry import CHECKS, Check, run_check

__all__ = ["CHECKS", "Check", "run_check"]
