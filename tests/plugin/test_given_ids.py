"""Ids that pytest prints select the same checks when they are given back on the command line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_headswap.checks import CHECKS
from pytest_headswap.results import Result

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

ALL = list(CHECKS)


def _selected(project: pytest.Pytester, *arguments: str) -> list[str]:
    result = project.runpytest_inprocess(*arguments, "--collect-only", "-q")
    assert result.ret == 0, result.stderr.str()
    return [line for line in result.stdout.lines if "::" in line]


def test_an_id_runs_one_check_and_nothing_else(project: pytest.Pytester, journal: Journal) -> None:
    result = project.runpytest_inprocess("testzoo::alpha::output_shape")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["headswap: testzoo (1 of 8 models); output_shape; *"])
    assert list(journal()) == ["testzoo::alpha::output_shape"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["testzoo::alpha"], [f"testzoo::alpha::{name}" for name in ALL]),
        (
            ["testzoo::alpha", "--headswap-checks=metadata,state_dict"],
            ["testzoo::alpha::metadata", "testzoo::alpha::state_dict"],
        ),
        (["testzoo::[ab]*::state_dict"], ["testzoo::alpha::state_dict", "testzoo::beta.v1_5::state_dict"]),
        (["testzoo::alpha::*t*_dict"], ["testzoo::alpha::state_dict"]),
        (
            ["testzoo::raising::metadata", "testzoo::alpha::state_dict", "testzoo::alpha::metadata"],
            ["testzoo::alpha::metadata", "testzoo::alpha::state_dict", "testzoo::raising::metadata"],
        ),
        (
            ["builtin::residual::metadata", "testzoo::alpha::metadata"],
            ["builtin::residual::metadata", "testzoo::alpha::metadata"],
        ),
        (["testzoo::alpha::metadata", "testzoo::alp*::metadata"], ["testzoo::alpha::metadata"]),
        (["testzoo::alpha::metadata", "-k", "raising"], []),
    ],
    ids=[
        "a model",
        "a model with the checks of the option",
        "a model glob",
        "a check glob",
        "several",
        "zoos",
        "twice",
        "-k",
    ],
)
def test_ids_select_exactly_their_checks(project: pytest.Pytester, arguments: list[str], expected: list[str]) -> None:
    if expected:
        assert _selected(project, *arguments) == expected
    else:
        assert project.runpytest_inprocess(*arguments).ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_ids_run_together_with_test_files(project: pytest.Pytester) -> None:
    expected = ["test_own.py::test_mine", "testzoo::alpha::metadata"]
    assert _selected(project, "testzoo::alpha::metadata", "test_own.py::test_mine") == expected
    assert _selected(project, "test_own.py", "testzoo::alpha::metadata") == expected


def test_ids_replace_the_zoos_and_models_of_options(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nheadswap_zoo = builtin\nheadswap_models = residual\naddopts = --headswap-zoo=testzoo")
    assert _selected(project, "testzoo::alpha::metadata") == ["testzoo::alpha::metadata"]


def test_every_printed_id_selects_its_check(project: pytest.Pytester, extend_conftest: Extend) -> None:
    names = ["a::b", "a:", "a[0]", "a/b.c", "a b", "größe", "100%", "tab\there", "a*", "ab"]
    extend_conftest(f"SPECS = dict.fromkeys({names!r}, dict(build=Net, build_native=Net))")
    printed = _selected(project, "--headswap-zoo=testzoo", "--headswap-checks=metadata")
    assert len(printed) == len(names)
    for nodeid in printed:
        assert _selected(project, nodeid) == [nodeid]


def test_the_id_of_a_zoo_in_a_file_selects(project: pytest.Pytester) -> None:
    project.makepyfile(nets="from torch import nn\nZOO = {'small': lambda num_classes=10: nn.Linear(4, num_classes)}")
    assert _selected(project, "nets.py:ZOO::small::metadata") == ["nets.py:ZOO::small::metadata"]


def test_a_folder_with_the_name_of_a_zoo_does_not_hide_the_zoo(project: pytest.Pytester) -> None:
    project.mkdir("testzoo")
    assert _selected(project, "testzoo::alpha::metadata") == ["testzoo::alpha::metadata"]


def test_a_test_file_takes_precedence_over_a_zoo(project: pytest.Pytester) -> None:
    project.makepyfile(test_own="def test_alpha():\n    pass\n")
    assert _selected(project, "test_own.py::test_alpha") == ["test_own.py::test_alpha"]


@pytest.mark.parametrize(
    ("nodeid", "message"),
    [
        ("testzo::alpha", "*neither a file nor a zoo 'testzo' for 'testzo::alpha': did you mean testzoo[?]"),
        (
            "testzoo::alpa::metadata",
            "*testzoo::alpa::metadata: unknown model 'alpa' in zoo 'testzoo': did you mean alpha[?]",
        ),
        ("testzoo::resnet*", "*testzoo::resnet[*]: no model of zoo 'testzoo' matches 'resnet[*]'*"),
        ("testzoo::alpha::metadat", "*testzoo::alpha::metadat: unknown check 'metadat': did you mean metadata[?]*"),
        ("testzoo::alpha::metadata::x", "*is not ZOO::MODEL::CHECK, such as timm::resnet18::output_shape"),
        ("testzoo::", "*'testzoo::' is not ZOO::MODEL::CHECK*"),
        ("ghosts::alpha", "*ghosts::alpha: zoo 'ghosts' needs ghostlib, which is not installed*"),
        ("nowhere::alpha", "*file or directory not found: nowhere::alpha*"),
    ],
)
def test_an_id_that_selects_nothing_is_a_usage_error(project: pytest.Pytester, nodeid: str, message: str) -> None:
    result = project.runpytest_inprocess(nodeid)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert "Traceback" not in result.stderr.str()


def test_workers_run_what_the_ids_select(project: pytest.Pytester, journal: Journal) -> None:
    result = project.runpytest_inprocess("testzoo::alpha::metadata", "testzoo::beta*::state_dict", "test_own.py", "-n2")
    result.assert_outcomes(passed=3)
    assert sorted(journal()) == ["testzoo::alpha::metadata", "testzoo::beta.v1_5::state_dict"]


def test_resume_keeps_the_results_that_the_ids_select(project: pytest.Pytester) -> None:
    project.runpytest_inprocess("testzoo::alpha::metadata", "testzoo::alpha::state_dict")
    result = project.runpytest_inprocess("testzoo::alpha::metadata", "testzoo::alpha::state_dict", "--headswap-resume")
    result.stdout.fnmatch_lines(["headswap: resume: 2 results kept from the earlier run"])
