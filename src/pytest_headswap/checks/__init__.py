"""The checks. Each is a function of a case in a file of its own; none knows pytest.

A check returns a note (empty, or what it had to leave out), or raises `CheckFailed` or `CheckSkipped`.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_headswap.checks.case import Case, build_case
from pytest_headswap.checks.finding import SKIP_REASONS, CheckFailed, CheckSkipped, Finding
from pytest_headswap.checks.gradient_flow import gradient_flow
from pytest_headswap.checks.native_parity import native_parity
from pytest_headswap.checks.output_shape import output_shape
from pytest_headswap.engine import HeadSwapError

__all__ = ["CHECKS", "SKIP_REASONS", "Case", "CheckFailed", "CheckSkipped", "Finding", "build_case", "run_check"]

# In the order in which they run and are listed: the cheapest and most telling first.
CHECKS: dict[str, Callable[[Case], str]] = {
    "output_shape": output_shape,
    "native_parity": native_parity,
    "gradient_flow": gradient_flow,
}


def run_check(name: str, case: Case) -> Finding:
    """Run one check; whatever it raises becomes part of the finding."""
    try:
        note = CHECKS[name](case)
    except CheckFailed as failure:
        return Finding("failed", str(failure), case.evidence, exception=failure)
    except CheckSkipped as skip:
        return Finding("skipped", skip.message, reason=skip.reason)
    except HeadSwapError as error:
        return Finding("error", str(error), reason=error.reason, exception=error)
    except Exception as error:  # noqa: BLE001 - a model's own code may raise anything
        return Finding("error", f"{type(error).__name__}: {error}", exception=error)
    return Finding("passed", note, case.evidence)
