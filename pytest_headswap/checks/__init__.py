"""The checks: one function per file that inspects a case. They do not depend on pytest."""

from __future__ import annotations

from pytest_headswap.checks.registry import CHECKS, Check, run_check

__all__ = ["CHECKS", "Check", "run_check"]
