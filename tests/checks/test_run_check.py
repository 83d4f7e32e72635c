"""`run_check` turns the result or exception of a check into a finding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed, CheckSkipped
from pytest_headswap.checks import CHECKS, Check, run_check
from pytest_headswap.engine import HeadSwapError
from pytest_headswap.harness.options import requested_checks

MakeCase = Callable[..., Case]


def test_the_checks_have_a_fixed_order() -> None:
    assert list(CHECKS) == [
        "output_shape",
        "native_parity",
        "metadata",
        "state_dict",
        "gradient_flow",
        "frozen_backbone",
        "round_trip",
        "device_placement",
    ]


def test_a_caller_selects_checks_as_the_option_does() -> None:
    slow = Check("slow", lambda case: None, opt_in=True)
    names = list(CHECKS)
    assert [check.name for check in requested_checks(None)] == names
    assert [check.name for check in requested_checks("+metadata")] == names
    assert [check.name for check in requested_checks("+state_dict, !metadata")] == [n for n in names if n != "metadata"]
    assert [check.name for check in requested_checks(["+metadata", slow])] == ["metadata", "slow"]
    assert requested_checks("") == ()
    with pytest.raises(ValueError, match=r"unknown check 'metadat' in checks: did you mean metadata\?"):
        requested_checks("+metadat")
    with pytest.raises(ValueError, match="excludes every check"):
        requested_checks("metadata,!metadata")


def _raising(error: BaseException) -> Callable[[Case], str]:
    def check(case: Case) -> str:
        raise error

    return check


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CheckFailed("wrong width"), ("failed", "wrong width", "numeric", "")),
        (CheckSkipped("no_native", "cannot build"), ("skipped", "cannot build", "", "no_native")),
        (
            HeadSwapError("forward_failed", "it raised"),
            ("error", "[forward_failed] it raised", "", "forward_failed"),
        ),
        (ZeroDivisionError("by zero"), ("error", "ZeroDivisionError: by zero", "", "")),
    ],
)
def test_an_exception_becomes_a_finding(
    make_case: MakeCase, error: Exception, expected: tuple[str, str, str, str]
) -> None:
    finding = run_check(Check("planted", _raising(error)), make_case())
    assert (finding.outcome, finding.message, finding.evidence, finding.reason) == expected
    assert finding.exception is (None if isinstance(error, CheckSkipped) else error)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(0), "SystemExit: 0"),
        (GeneratorExit(), "GeneratorExit"),
        (asyncio.CancelledError("stopped"), "CancelledError: stopped"),
        (Unprintable(), "Unprintable: its str() raises ValueError"),
    ],
)
def test_any_exception_in_a_check_becomes_an_error_with_a_message(
    make_case: MakeCase, error: BaseException, message: str
) -> None:
    finding = run_check(Check("planted", _raising(error)), make_case())
    assert (finding.outcome, finding.message, finding.evidence) == ("error", message, "")
    assert finding.exception is error


@pytest.mark.parametrize("returned", [{"a": 1}, False, True, 0, b"bytes", ["a note"], torch.zeros(())])
def test_a_check_that_returns_neither_text_nor_none_is_an_error(make_case: MakeCase, returned: Any) -> None:
    finding = run_check(Check("planted", lambda case: returned), make_case())
    assert finding.outcome == "error"
    assert finding.message.startswith(f"TypeError: the check planted returned {type(returned).__name__}. ")


def test_an_exception_in_the_evidence_function_becomes_an_error(make_case: MakeCase) -> None:
    def evidence(case: Case) -> str:
        raise LookupError("which?")

    finding = run_check(Check("planted", _raising(CheckFailed("a fault")), evidence), make_case())
    assert (finding.outcome, finding.message) == ("error", "LookupError: which?")


def test_an_interrupt_is_not_swallowed(make_case: MakeCase) -> None:
    def interrupted(case: Case) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_check(Check("planted", interrupted), make_case())
