"""What is typed wrong ends the run before it starts and names the fix; each option is a flag and an ini key."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_headswap.report import Result, read_journal

USAGE_ERROR = pytest.ExitCode.USAGE_ERROR

BAD_FLAGS = {
    "unknown zoo": (["--headswap-zoo=testzo"], "*unknown zoo 'testzo'*did you mean testzoo*"),
    "library missing": (["--headswap-zoo=ghosts"], "*needs ghostlib*pip install 'pytest-headswap?ghostlib?'*"),
    "unknown model": (
        ["--headswap-zoo=testzoo", "--headswap-models=alpa"],
        "*unknown model 'alpa' in zoo 'testzoo'*did you mean alpha*",
    ),
    "glob without a match": (["--headswap-zoo=testzoo", "--headswap-models=resnet*"], "*no model*matches 'resnet?'*"),
    "everything left out": (
        ["--headswap-zoo=testzoo", "--headswap-models=alpha,!al*"],
        "*leaves nothing*leave out less*",
    ),
    "unknown check": (
        ["--headswap-zoo=testzoo", "--headswap-checks=output_shapes"],
        "*unknown check 'output_shapes'*did you mean output_shape*output_shape, native_parity, gradient_flow*",
    ),
    "unknown check among known ones": (
        ["--headswap-zoo=testzoo", "--headswap-checks=output_shape,nonsense"],
        "*unknown check 'nonsense'*The checks are output_shape, native_parity, gradient_flow*",
    ),
}


@pytest.mark.parametrize(("flags", "message"), BAD_FLAGS.values(), ids=BAD_FLAGS.keys())
def test_a_flag_that_cannot_be_used_names_the_fix(
    project: pytest.Pytester, builds: Callable[[], list[str]], flags: list[str], message: str
) -> None:
    result = project.runpytest_inprocess(*flags)
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert "Traceback" not in result.stderr.str()
    assert builds() == []
    assert not (project.path / "headswap-report").exists()


@pytest.mark.parametrize("text", ["0", "-3", "True", "false", "seven", "7.0", "1e3", "٣", "0x7", "7 8"])
def test_a_class_count_that_is_no_positive_whole_number_is_refused(project: pytest.Pytester, text: str) -> None:
    result = project.runpytest_inprocess("--headswap-zoo=testzoo", f"--headswap-num-classes={text}")
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--headswap-num-classes must be a positive whole number, not '{text}'*such as 7*"])


@pytest.mark.parametrize("value", ["0", "true", "seven", "2.5"])
def test_the_class_count_of_the_ini_file_is_held_to_the_same(project: pytest.Pytester, value: str) -> None:
    project.makeini(f"[pytest]\nheadswap_zoo = testzoo\nheadswap_num_classes = {value}\n")
    result = project.runpytest_inprocess()
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines([f"*must be a positive whole number, not '{value}'*"])


def test_a_report_folder_that_cannot_be_made_is_refused(project: pytest.Pytester) -> None:
    project.makefile(".txt", taken="")
    result = project.runpytest_inprocess("--headswap-zoo=testzoo", "--headswap-report=taken.txt")
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines(["*cannot write the report to *taken.txt*--headswap-report*"])


@pytest.mark.parametrize("flag", ["--help", "--version", "--markers"])
def test_a_wrong_ini_file_does_not_stand_in_the_way_of_help(project: pytest.Pytester, flag: str) -> None:
    project.makeini("[pytest]\nheadswap_zoo = nowhere\n")
    assert project.runpytest_inprocess(flag).ret == 0


def test_help_lists_each_option_with_its_default(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess("--help")
    for name in ("zoo", "models", "checks", "num-classes", "report"):
        result.stdout.fnmatch_lines([f"*--headswap-{name}=*"])
        result.stdout.fnmatch_lines([f"*headswap_{name.replace('-', '_')} (*"])
    result.stdout.fnmatch_lines(["*default: 7*"])


def test_each_option_works_as_an_ini_key(project: pytest.Pytester, journal: Callable[..., dict[str, Result]]) -> None:
    project.makeini(
        "[pytest]\n"
        "headswap_zoo = testzoo\n"
        "headswap_models = alpha, lonely\n"
        "headswap_checks = output_shape\n"
        "headswap_num_classes = 3\n"
        "headswap_report = out/of/the/way\n"
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(passed=3)  # the test of the project among them
    results = journal("out/of/the/way")
    assert list(results) == ["testzoo::alpha::output_shape", "testzoo::lonely::output_shape"]
    assert all(item.repro.endswith("--headswap-num-classes=3") for item in results.values())
    header, _ = read_journal(project.path / "out/of/the/way")
    assert header.options == {
        "zoo": ["testzoo"],
        "models": "alpha, lonely",
        "checks": ["output_shape"],
        "num_classes": 3,
    }


def test_the_command_line_wins_over_the_ini_file(
    project: pytest.Pytester, journal: Callable[..., dict[str, Result]]
) -> None:
    project.makeini("[pytest]\nheadswap_zoo = nowhere\nheadswap_models = nothing\nheadswap_num_classes = 0\n")
    result = project.runpytest_inprocess(
        "--headswap-zoo=testzoo",
        "--headswap-models=alpha",
        "--headswap-num-classes=4",
        "--headswap-checks=output_shape",
    )
    result.assert_outcomes(passed=1)
    assert list(journal()) == ["testzoo::alpha::output_shape"]


def test_checks_run_in_their_own_order_whatever_the_order_asked_for(
    project: pytest.Pytester, journal: Callable[..., dict[str, Result]]
) -> None:
    flags = ["--headswap-zoo=testzoo", "--headswap-models=alpha"]
    project.runpytest_inprocess(*flags, "--headswap-checks=gradient_flow, output_shape").assert_outcomes(passed=2)
    assert [result.check for result in journal().values()] == ["output_shape", "gradient_flow"]


def test_several_zoos_run_together_and_a_pattern_has_to_fit_one_of_them(
    project: pytest.Pytester, journal: Callable[..., dict[str, Result]]
) -> None:
    flags = ["--headswap-zoo=testzoo", "--headswap-zoo=builtin", "--headswap-zoo=testzoo"]
    result = project.runpytest_inprocess(
        *flags, "--headswap-models=alpha,batch_norm*,!beta*", "--headswap-checks=output_shape"
    )
    assert result.ret == 0
    zoos = {result.zoo for result in journal().values()}
    assert zoos == {"testzoo", "builtin"}
    assert "testzoo::alpha::output_shape" in journal()


def test_a_pattern_that_fits_none_of_several_zoos_is_refused(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(
        "--headswap-zoo=testzoo", "--headswap-zoo=builtin", "--headswap-models=alpha,nothing*"
    )
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines(["*matches 'nothing?'*"])


def test_the_header_says_what_runs(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess("--headswap-zoo=testzoo", "--headswap-models=alpha,beta*", "--collect-only")
    result.stdout.fnmatch_lines(
        ["headswap: testzoo (2 of 8 models); output_shape, native_parity, gradient_flow; 7 classes"]
    )
