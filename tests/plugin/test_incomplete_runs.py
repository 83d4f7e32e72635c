"""An incomplete run states what is missing: in the terminal, in Markdown and in HTML."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from pytest_headswap.results import Result, read_journal

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

ZOO = "--headswap-zoo=testzoo"
TWO = "--headswap-checks=output_shape,native_parity"
SOUND = "--headswap-models=alpha,beta*"
COMMAND = (sys.executable, "-c", "from pytest_headswap.cli.main import main; raise SystemExit(main())")


def _summary(project: pytest.Pytester) -> str:
    return (project.path / "headswap-report" / "summary.md").read_text(encoding="utf-8")


INTERRUPTING = """
def pytest_runtest_setup(item):
    if item.nodeid == "testzoo::beta.v1_5::native_parity":
        {how}
"""
MISSING = "13 of 16 selected results are missing: testzoo::beta.v1_5::native_parity, testzoo::doubled::output_shape, "


@pytest.mark.parametrize(
    "how",
    [
        "raise KeyboardInterrupt",
        "pytest.exit('enough')",
        "pytest.exit('enough', returncode=0)",
        "item.session.shouldstop = 'a plugin stops here'; pytest.skip('no')",
    ],
)
def test_all_reports_of_an_interrupted_run_state_what_is_missing(
    project: pytest.Pytester, extend_conftest: Extend, how: str
) -> None:
    extend_conftest(INTERRUPTING.format(how=how))
    # inside of pytest, Ctrl-C would end the tests of this file
    run = project.runpytest_subprocess if how == "raise KeyboardInterrupt" else project.runpytest_inprocess
    result = run(ZOO, TWO)
    assert result.ret != 0
    message = (
        MISSING if "skip" not in how else "12 of 16 selected results are missing: testzoo::doubled::output_shape, "
    )
    result.stdout.fnmatch_lines(
        [f"INCOMPLETE: {message}*and * more. To run the missing checks, repeat the command with *"]
    )
    summary = _summary(project).replace("\\", "")
    assert f"**Incomplete**: {message}" in summary
    assert "Nothing failed" not in summary
    assert "No failure among 3 results" in summary or "skip" in how
    page = (project.path / "headswap-report" / "index.html").read_text(encoding="utf-8")
    assert f"<strong>Incomplete.</strong> {message}" in page
    (project.path / "headswap-report" / "summary.md").unlink()
    again = project.run(*COMMAND, "report", "headswap-report")
    assert again.ret == 0
    again.stdout.fnmatch_lines([f"incomplete: {message}*"])
    assert f"**Incomplete**: {message}" in _summary(project).replace("\\", "")


def test_a_run_interrupted_before_its_first_result_states_what_is_missing(
    project: pytest.Pytester, extend_conftest: Extend
) -> None:
    extend_conftest("def pytest_runtest_setup(item):\n    raise KeyboardInterrupt")
    result = project.runpytest_subprocess(ZOO, TWO, SOUND)
    result.stdout.fnmatch_lines(["INCOMPLETE: 4 of 4 selected results are missing: *"])
    assert "Nothing failed" not in _summary(project)


def test_unselected_checks_are_not_missing(project: pytest.Pytester) -> None:
    for flags in (["-k", "native_parity"], ["--deselect=testzoo::alpha::output_shape"], [SOUND]):
        result = project.runpytest_inprocess(ZOO, TWO, *flags)
        result.stdout.no_fnmatch_line("INCOMPLETE*")
        assert "Incomplete" not in _summary(project)
    assert project.runpytest_inprocess(ZOO, TWO, SOUND).ret == 0
    result = project.runpytest_inprocess("testzoo::alpha::native_parity", ZOO, TWO)
    result.stdout.no_fnmatch_line("INCOMPLETE*")


def test_a_resumed_run_is_complete(project: pytest.Pytester, extend_conftest: Extend, journal: Journal) -> None:
    extend_conftest(INTERRUPTING.format(how="os.path.exists('go on') or pytest.exit('enough')"))
    flags = (ZOO, TWO, SOUND)
    project.runpytest_inprocess(*flags).stdout.fnmatch_lines(["INCOMPLETE: 1 of 4 selected results is missing: *"])
    (project.path / "go on").touch()
    result = project.runpytest_inprocess(*flags, "--headswap-resume")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("INCOMPLETE*")
    assert len(journal()) == 4
    assert "Nothing failed" in _summary(project)


def test_a_test_dropped_by_a_plugin_is_missing_and_fails_the_run(
    project: pytest.Pytester, extend_conftest: Extend
) -> None:
    extend_conftest(
        "def pytest_runtest_protocol(item):\n"
        "    return True if item.nodeid == 'testzoo::alpha::native_parity' else None\n"
    )
    result = project.runpytest_inprocess(ZOO, TWO, SOUND)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    message = "INCOMPLETE: 1 of 4 selected results is missing: testzoo::alpha::native_parity. *"
    result.stdout.fnmatch_lines([message])


def test_an_interrupted_run_on_workers_states_what_is_missing(
    project: pytest.Pytester, extend_conftest: Extend
) -> None:
    pytest.importorskip("xdist")
    extend_conftest("SPECS = {f'm{i}': dict(build=unbuildable) for i in range(4)}")
    result = project.runpytest_subprocess(ZOO, TWO, "-n", "1", "-x")
    assert result.ret != 0
    header, results = read_journal(project.path / "headswap-report")
    assert header.selected == {
        "testzoo": [{"models": ["m0", "m1", "m2", "m3"], "checks": ["output_shape", "native_parity"]}]
    }
    missing = 8 - len(results)
    assert missing
    result.stdout.fnmatch_lines([f"INCOMPLETE: {missing} of 8 selected results *"])


def test_a_run_without_models_leaves_the_last_report_alone(project: pytest.Pytester, journal: Journal) -> None:
    project.makeini("[pytest]\nheadswap_zoo = testzoo\nheadswap_models = alpha, mismatched\n")
    project.runpytest_inprocess("-k", "native_parity or mine").assert_outcomes(passed=2, failed=1, deselected=14)
    before = _summary(project)
    for flags in (["-k", "mine"], ["--deselect=testzoo"], ["-m", "nothing_has_this_mark"]):
        result = project.runpytest_inprocess(*flags)
        assert result.ret in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        assert len(journal()) == 2
        assert _summary(project) == before
