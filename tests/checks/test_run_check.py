"""Whatever a check raises becomes a finding."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_headswap.checks import CHECKS, Case, Check, CheckFailed, CheckSkipped, run_check
from pytest_headswap.engine import HeadSwapError

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


def _raising(error: Exception) -> Callable[[Case], str]:
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


def test_an_interrupt_is_not_swallowed(make_case: MakeCase) -> None:
    def interrupted(case: Case) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_check(Check("planted", interrupted), make_case())
