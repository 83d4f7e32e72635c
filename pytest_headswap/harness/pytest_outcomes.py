"""Recognize pytest's own exceptions, which are verdicts, without importing pytest, for `check_headswap`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

if TYPE_CHECKING:
    from pytest_headswap.case.finding import Finding


def is_skip(error: BaseException | None) -> bool:
    """Return whether pytest treats an exception as a skip; this includes `unittest.SkipTest`."""
    return isinstance(error, SkipTest) or _is_pytest_exception(error, "Skipped")


def make_skip(message: str) -> BaseException:
    """Return an exception that pytest treats as a skip."""
    outcomes: Any = sys.modules.get("_pytest.outcomes")
    return SkipTest(message) if outcomes is None else outcomes.Skipped(message)


def is_xfail(error: BaseException | None) -> bool:
    """Return whether an exception was raised by `pytest.xfail`."""
    return _is_pytest_exception(error, "XFailed")


def is_failure(error: BaseException | None) -> bool:
    """Return whether an exception was raised by `pytest.fail`."""
    return _is_pytest_exception(error, "Failed") and not is_xfail(error)


def apply_pytest_outcome(finding: Finding) -> Finding:
    """Return the finding, with `pytest.skip` and `pytest.fail` in the check turned into its verdict."""
    from pytest_headswap.case.finding import Finding, describe_error, error_text

    error = finding.exception
    if error is not None and is_skip(error):
        return Finding("skipped", error_text(error))
    if error is not None and is_failure(error):
        return Finding("failed", describe_error(error), exception=error)
    return finding


def _is_pytest_exception(error: BaseException | None, name: str) -> bool:
    """Return whether an exception is one of pytest's; if pytest is not imported, nothing can have raised one."""
    outcomes = sys.modules.get("_pytest.outcomes")
    return outcomes is not None and isinstance(error, getattr(outcomes, name))
