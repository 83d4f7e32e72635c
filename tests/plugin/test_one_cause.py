"""A model that cannot be built is one block in the terminal, and still one result per check."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_headswap.checks import CHECKS
from pytest_headswap.results import Result

Journal = Callable[..., dict[str, Result]]


@pytest.mark.parametrize("flags", [[], ["-n1"]], ids=["alone", "with xdist"])
def test_a_model_that_cannot_be_built_is_one_block(
    project: pytest.Pytester, journal: Journal, flags: list[str]
) -> None:
    result = project.runpytest_inprocess("testzoo::unbuildable", "testzoo::raising::metadata", *flags)
    result.assert_outcomes(errors=len(CHECKS) + 1)
    lines = result.stdout.lines
    assert sum("ValueError: no such depth" in line and not line.startswith(("ERROR", "  ")) for line in lines) == 1
    assert lines.count("and 7 more checks for the same reason") == 1
    assert sum(line.startswith("ERROR testzoo::unbuildable::") for line in lines) == len(CHECKS)
    assert sum("needs attention, worst first: 2 architectures" in line for line in lines) == 1
    assert len(journal()) == len(CHECKS) + 1


def test_different_causes_keep_their_blocks(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess("testzoo::mismatched::native_parity", "testzoo::unbuildable::metadata")
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.no_fnmatch_line("*for the same reason*")


def test_a_requested_traceback_is_shown_once_too(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess("testzoo::unbuildable", "--headswap-checks=metadata,state_dict", "--tb=long")
    result.assert_outcomes(errors=2)
    assert sum(line.startswith("_") and "unbuildable" in line for line in result.stdout.lines) == 1
    assert result.stdout.lines.count("and 1 more check for the same reason") == 1


def test_without_a_summary_every_error_is_counted(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(
        "testzoo::unbuildable", "--headswap-checks=metadata,state_dict", "--no-summary"
    )
    result.assert_outcomes(errors=2)


@pytest.mark.parametrize("flags", [[], ["-n1"]], ids=["alone", "with xdist"])
def test_a_class_count_written_into_forward_is_one_block(
    project: pytest.Pytester, extend_conftest: Callable[[str], None], journal: Journal, flags: list[str]
) -> None:
    extend_conftest(
        "class Written(Net):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x).view(-1, 10)\n"
        "SPECS['written'] = dict(build=Written, build_native=Written)"
    )
    result = project.runpytest_inprocess("testzoo::written", *flags)
    result.assert_outcomes(errors=len(CHECKS))
    assert result.stdout.lines.count("and 7 more checks for the same reason") == 1
    assert sum("return super().forward(x).view(-1, 10)" in line for line in result.stdout.lines) <= 3
    (verdict,) = {(found.outcome, found.reason, found.message) for found in journal().values()}
    assert verdict[:2] == ("error", "verification_failed")
