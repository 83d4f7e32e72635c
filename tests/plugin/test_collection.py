"""A zoo has a collection tree of its own: ids select models, and listing builds nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_headswap.results import Result

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

CHECKS = ("output_shape", "native_parity", "gradient_flow")
THREE = f"--headswap-checks={','.join(CHECKS)}"
SOUND = ("--headswap-zoo=testzoo", "--headswap-models=alpha,beta*", THREE)


def _collected(result: pytest.RunResult) -> list[str]:
    return [line for line in result.stdout.lines if "::" in line]


def test_ids_are_zoo_model_and_check_in_sorted_order(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(*SOUND, "--collect-only", "-q")
    assert _collected(result) == [f"testzoo::{model}::{check}" for model in ("alpha", "beta.v1_5") for check in CHECKS]


def test_the_tree_has_levels_for_zoo_model_and_check(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(*SOUND, "--collect-only")
    result.stdout.fnmatch_lines(["<ZooNode testzoo>", "  <ModelNode alpha>", "    <CheckItem output_shape>"])


def test_collect_only_builds_nothing_and_keeps_the_last_journal(
    project: pytest.Pytester, journal: Journal, builds: Callable[[], list[str]]
) -> None:
    project.runpytest_inprocess(*SOUND)
    results = journal()
    (project.path / "builds.txt").unlink()
    assert project.runpytest_inprocess("--headswap-zoo=testzoo", "--collect-only").ret == 0
    assert builds() == []
    assert journal() == results


def test_a_zoo_on_the_command_line_runs_alone(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ntestpaths = .")
    result = project.runpytest_inprocess(*SOUND, "-v")
    result.assert_outcomes(passed=6)
    result.stdout.no_fnmatch_line("*test_own*")


def test_a_broken_test_file_does_not_affect_a_zoo_run(project: pytest.Pytester) -> None:
    project.makepyfile(test_broken="import nowhere_to_be_found")
    assert project.runpytest_inprocess(*SOUND).ret == 0


def test_paths_given_with_a_zoo_run_too(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(*SOUND, "test_own.py", "--collect-only", "-q")
    assert _collected(result)[0] == "test_own.py::test_mine"
    assert len(_collected(result)) == 7


def test_a_zoo_in_the_ini_file_runs_along_with_the_projects_tests(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nheadswap_zoo = testzoo\nheadswap_models = alpha\nheadswap_checks = " + ",".join(CHECKS))
    result = project.runpytest_inprocess("--collect-only", "-q")
    assert _collected(result) == ["test_own.py::test_mine", *(f"testzoo::alpha::{check}" for check in CHECKS)]


def test_a_zoo_in_the_ini_file_does_not_run_when_paths_are_given(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nheadswap_zoo = testzoo")
    result = project.runpytest_inprocess("test_own.py")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*headswap:*")
    assert not (project.path / "headswap-report").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["-k", "alpha"], [f"testzoo::alpha::{check}" for check in CHECKS]),
        (["-k", "native_parity"], ["testzoo::alpha::native_parity", "testzoo::beta.v1_5::native_parity"]),
        (["-k", "beta and gradient"], ["testzoo::beta.v1_5::gradient_flow"]),
        (["--deselect", "testzoo::alpha"], [f"testzoo::beta.v1_5::{check}" for check in CHECKS]),
    ],
)
def test_the_usual_ways_of_selecting_work(project: pytest.Pytester, flags: list[str], expected: list[str]) -> None:
    assert _collected(project.runpytest_inprocess(*SOUND, "--collect-only", "-q", *flags)) == expected


def test_lf_reruns_only_failures(project: pytest.Pytester, journal: Journal) -> None:
    flags = ["--headswap-zoo=testzoo", "--headswap-models=alpha,mismatched,raising", THREE]
    project.runpytest_inprocess(*flags)
    result = project.runpytest_inprocess(*flags, "--lf", "-v")
    result.assert_outcomes(failed=1, errors=3)
    assert {item.model for item in journal().values()} == {"mismatched", "raising"}


def test_x_ends_the_run_at_the_first_failure(project: pytest.Pytester, journal: Journal) -> None:
    result = project.runpytest_inprocess("--headswap-zoo=testzoo", "--headswap-models=mismatched,wrong_inputs", "-x")
    result.assert_outcomes(passed=1, failed=1)
    assert [item.outcome for item in journal().values()] == ["passed", "failed"]


def test_progress_and_verbose_lines_name_zoo_and_id(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(*SOUND).stdout.fnmatch_lines(["testzoo ......*"])
    verbose = project.runpytest_inprocess(*SOUND, "-vv")
    verbose.stdout.fnmatch_lines(["testzoo::beta.v1_5::output_shape PASSED*"])
    verbose.stdout.no_fnmatch_line("* <- *")


ODD_NAMES = ["a::b", "a:", "a[0]", "a/b.c", "a b", "größe", "100%", "tab\there", "a%3A"]


def test_odd_names_get_distinct_ids_that_can_be_selected(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(f"SPECS = dict.fromkeys({ODD_NAMES!r}, dict(build=Net, build_native=Net))")
    flags = ["--headswap-zoo=testzoo", "--headswap-checks=output_shape"]
    result = project.runpytest_inprocess(*flags, "--junitxml=junit.xml")
    result.assert_outcomes(passed=len(ODD_NAMES))
    results = journal()
    assert sorted(item.model for item in results.values()) == sorted(ODD_NAMES)
    assert all(len(nodeid.split("::")) == 3 for nodeid in results)
    listed = _collected(project.runpytest_inprocess(*flags, "--collect-only", "-q"))
    assert listed == list(results)


def test_lf_reruns_a_failure_with_an_odd_name(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(f"SPECS = dict.fromkeys({ODD_NAMES!r}, dict(build=Net, build_native=lambda n: nn.Linear(1, 1)))")
    project.runpytest_inprocess("--headswap-zoo=testzoo", THREE).assert_outcomes(failed=9, passed=18)
    project.runpytest_inprocess("--headswap-zoo=testzoo", THREE, "--lf").assert_outcomes(failed=9)
    assert sorted(item.model for item in journal().values()) == sorted(ODD_NAMES)


def test_thousands_of_tests_are_collected_without_building_a_model(
    project: pytest.Pytester, extend_conftest: Extend
) -> None:
    extend_conftest("SPECS = {f'm{i}': dict(build=unbuildable) for i in range(2742)}")
    result = project.runpytest_inprocess("--headswap-zoo=testzoo", THREE, "--collect-only", "-qq")
    result.stdout.fnmatch_lines(["testzoo: 8226"])
    assert result.ret == 0
