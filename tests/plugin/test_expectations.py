"""Run pytest with an expectations file: outcomes, failures, updates and summaries."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_headswap.results import Result

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

ZOO = "--headswap-zoo=testzoo"
TWO = "--headswap-checks=output_shape,native_parity"
FILE = "--headswap-expectations=testzoo.toml"
UPDATE = "--headswap-update-expectations"

MISMATCHED = """
[[expect]]
models = "mismatched"
checks = "native_parity"
outcome = "failed"
match = "the state_dict differs"
reason = "its native model is another one"
"""
BROKEN = """
[[expect]]
models = ["raising", "wrong_inputs"]
outcome = "error"
code = "forward_failed"
reason = "they are here to fail"

[[expect]]
models = "unbuildable"
outcome = "error"
match = "^ValueError"
reason = "it is here to fail"
"""

NOT_RUN = """
[[expect]]
models = "unbuildable"
outcome = "skipped"
run = false
reason = "it takes the machine with it"
"""


@pytest.fixture
def write(project: pytest.Pytester) -> Callable[[str], Path]:
    """Write the expectations file."""

    def write(text: str) -> Path:
        path: Path = project.path / "testzoo.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


Write = Callable[[str], Path]


def test_an_expected_failure_is_xfailed_for_pytest_and_in_the_journal(
    project: pytest.Pytester, write: Write, journal: Journal
) -> None:
    write(MISMATCHED + BROKEN)
    result = project.runpytest_inprocess(ZOO, TWO, FILE, "--junitxml=junit.xml", "-rx", "-x")
    result.assert_outcomes(passed=6, skipped=3, xfailed=7)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "headswap: expectations: 3 entries of testzoo.toml",
            "XFAIL testzoo::mismatched::native_parity - its native model is another one",
        ]
    )
    item = journal()["testzoo::mismatched::native_parity"]
    assert (item.outcome, item.raw_outcome, item.expectation) == (
        "xfailed",
        "failed",
        "its native model is another one",
    )
    assert item.message.startswith("the state_dict differs")
    assert journal()["testzoo::unbuildable::output_shape"].raw_outcome == "error"
    assert journal()["testzoo::alpha::output_shape"].expectation == ""
    (suite,) = ET.parse(project.path / "junit.xml").getroot()
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "0", "10")


def test_shards_have_the_outcomes_of_the_whole_run_and_update_one_file(
    project: pytest.Pytester, journal: Journal
) -> None:
    flags = [ZOO, TWO, "--headswap-expectations=all.toml"]
    shards = [f"--headswap-shard={number}/3" for number in (1, 2, 3)]
    for shard in shards:
        project.runpytest_inprocess(*flags, UPDATE, shard)
    result = project.runpytest_inprocess(*flags)
    result.assert_outcomes(passed=6, skipped=3, xfailed=7)
    assert result.ret == 0
    assert 'zoo = "testzoo"' in (project.path / "all.toml").read_text()
    whole = {name: (item.outcome, item.raw_outcome, item.expectation) for name, item in journal().items()}
    parts: dict[str, tuple[str, str, str]] = {}
    for shard in shards:
        assert project.runpytest_inprocess(*flags, shard).ret == 0
        parts |= {name: (item.outcome, item.raw_outcome, item.expectation) for name, item in journal().items()}
    assert parts == whole


def test_xdist_workers_apply_the_file_and_only_the_controller_updates_it(
    project: pytest.Pytester, write: Write, extend_conftest: Extend, journal: Journal
) -> None:
    pytest.importorskip("xdist")
    extend_conftest(
        "def pytest_runtest_call(item):\n"
        "    if item.nodeid == 'testzoo::alpha::output_shape':\n        os._exit(3)\n"
        "@pytest.hookimpl(trylast=True, optionalhook=True)\n"
        "def pytest_configure_node(node):\n"
        "    print('sent', *node.workerinput['headswap_expectations']['texts'])\n"
        "def pytest_unconfigure(config):\n"
        "    print('counted', config.pluginmanager.get_plugin('session').testsfailed)\n"
    )
    dies = '[[expect]]\nmodels = "alpha"\nchecks = "output_shape"\noutcome = "crashed"\nreason = "it kills"\n'
    not_run = NOT_RUN.replace("unbuildable", "beta*")
    path = write(BROKEN + dies + not_run)
    result = project.runpytest_subprocess(ZOO, TWO, FILE, UPDATE, "-n", "2")
    result.assert_outcomes(passed=3, failed=1, skipped=5, xfailed=7)
    result.stdout.fnmatch_lines([f"sent {path}", "counted 1"])
    item = journal()["testzoo::alpha::output_shape"]
    assert (item.outcome, item.raw_outcome, item.expectation) == ("xfailed", "crashed", "it kills")
    assert journal()["testzoo::beta.v1_5::output_shape"].reason == "not_run"
    assert path.read_text().startswith(BROKEN + dies + not_run)
    assert path.read_text().count("TODO") == 1
    assert path.read_text().count("mismatched") == 1


def test_an_unexpected_pass_fails_with_the_command_that_updates_the_file(
    project: pytest.Pytester, write: Write, journal: Journal
) -> None:
    path = write(MISMATCHED.replace('"mismatched"', '["mismatched", "alpha"]'))
    flags = [ZOO, TWO, FILE, "--headswap-models=alpha,mismatched"]
    result = project.runpytest_inprocess(*flags)
    result.assert_outcomes(passed=2, xfailed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    command = (
        "pytest --headswap-zoo=testzoo --headswap-models=alpha --headswap-checks=native_parity "
        "--headswap-report=headswap-repeat --headswap-expectations=testzoo.toml --headswap-update-expectations"
    )
    result.stdout.fnmatch_lines(
        [
            "passes, but testzoo.toml, line 2 expects failed with a message that *: its native model is another one",
            f"Fix the file with: {command}",
            "FAILED testzoo::alpha::native_parity*",
        ]
    )
    item = journal()["testzoo::alpha::native_parity"]
    assert (item.outcome, item.raw_outcome) == ("xpassed", "passed")
    assert command in item.expectation
    before = path.read_text()
    updated = project.runpytest_inprocess(*command.split()[1:])
    updated.stdout.fnmatch_lines(
        [
            "--headswap-expectations=testzoo.toml: nothing to update",
            "1 entry to narrow by hand. Exclude what no longer fits:",
            "  testzoo.toml, line 2: models mismatched, alpha; checks native_parity; failed *",
            "    no longer fits alpha::native_parity",
        ]
    )
    assert path.read_text() == before
    write(before.replace(', "alpha"', ""))
    assert project.runpytest_inprocess(*flags).ret == 0


@pytest.mark.parametrize(
    ("change", "printed"),
    [
        (("the state_dict differs", "something else"), "expects failed with a message that matches 'something else'"),
        (('"failed"\nmatch = "the state_dict differs"', '"timeout"'), "is failed, but * expects timeout"),
    ],
)
def test_a_different_failure_fails_and_names_both(
    project: pytest.Pytester, write: Write, journal: Journal, change: tuple[str, str], printed: str
) -> None:
    write(MISMATCHED.replace(*change))
    result = project.runpytest_inprocess(ZOO, TWO, FILE, "--headswap-models=mismatched")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["the state_dict differs from *", f"*{printed}*"])
    assert journal()["testzoo::mismatched::native_parity"].outcome == "failed"


def test_a_skip_fails_if_another_outcome_is_expected_or_all_skips_must_be_listed(
    project: pytest.Pytester, write: Write, journal: Journal
) -> None:
    flags = [ZOO, TWO, FILE, "--headswap-models=doubled,lonely"]
    write("strict_skips = true\n" + MISMATCHED.replace("mismatched", "lonely"))
    result = project.runpytest_inprocess(*flags)
    result.assert_outcomes(passed=1, failed=1, errors=2)
    result.stdout.fnmatch_lines(
        [
            "is skipped ?output_from_input?, which testzoo.toml does not list*",
            "is skipped ?no_native?, but testzoo.toml, line 3 expects failed*",
        ]
    )
    assert (journal()["testzoo::lonely::native_parity"].outcome) == "failed"
    write('strict_skips = true\n[[expect]]\nmodels = "*"\noutcome = "skipped"\nmay_pass = true\nreason = "no head"\n')
    result = project.runpytest_inprocess(*flags)
    result.assert_outcomes(passed=1, skipped=3)
    assert result.ret == 0


def test_an_entry_applies_only_if_its_condition_holds(project: pytest.Pytester, write: Write) -> None:
    flags = [ZOO, TWO, FILE, "--headswap-models=mismatched"]
    write(MISMATCHED + 'when = {testlib = ">=1.2", device = "cpu"}\n')
    project.runpytest_inprocess(*flags, "--headswap-device=cpu").assert_outcomes(passed=1, xfailed=1)
    write(MISMATCHED + 'when = {testlib = "<1.2"}\n')
    result = project.runpytest_inprocess(*flags)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.no_fnmatch_line("*unused entr*")


STALE = """
[[expect]]
models = "gone*"
outcome = "failed"
reason = "it was there once"
"""


def test_an_unused_entry_fails_only_a_run_of_the_complete_zoo(project: pytest.Pytester, write: Write) -> None:
    write(STALE + BROKEN + MISMATCHED)
    result = project.runpytest_inprocess(ZOO, TWO, FILE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=6, skipped=3, xfailed=7)
    result.stdout.fnmatch_lines(["FAILED: 1 unused entry. *", "  testzoo.toml, line 2: models gone?;*"])
    for part in (["--headswap-models=alpha"], ["-k", "alpha"], ["--headswap-shard=1/2", "-k", "not native_parity"]):
        result = project.runpytest_inprocess(ZOO, TWO, FILE, *part)
        assert result.ret == 0, part
        result.stdout.no_fnmatch_line("*unused entr*")
    result = project.runpytest_inprocess(ZOO, TWO, FILE, UPDATE)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["deleted 1 unused entry:", "  testzoo.toml, line 2: models gone?;*"])
    assert "gone" not in (project.path / "testzoo.toml").read_text()
    assert project.runpytest_inprocess(ZOO, TWO, FILE).ret == 0


def test_the_run_after_an_update_passes_and_changes_nothing(
    project: pytest.Pytester,
) -> None:
    flags = [ZOO, TWO, "--headswap-expectations=known"]
    first = project.runpytest_inprocess(*flags, UPDATE)
    assert first.ret == pytest.ExitCode.TESTS_FAILED, "the run still reports the failure"
    first.stdout.fnmatch_lines(["*=known: updated", "+++ known/testzoo.toml", '+outcome = "error"'])
    path = project.path / "known" / "testzoo.toml"
    written = path.read_text()
    second = project.runpytest_inprocess(*flags, UPDATE)
    assert second.ret == 0
    second.assert_outcomes(passed=6, skipped=3, xfailed=7)
    second.stdout.fnmatch_lines(["TODO: 4 entries without a reason yet:", "*known: nothing to update"])
    assert path.read_text() == written


@pytest.mark.parametrize(
    ("mark", "expected"),
    [("xfail(reason='mine', strict=True)", {"xfailed": 1}), ("skip(reason='mine')", {"skipped": 1})],
)
def test_marks_of_the_user_take_precedence(
    project: pytest.Pytester, write: Write, extend_conftest: Extend, mark: str, expected: dict[str, int]
) -> None:
    path = write("strict_skips = true\n" + MISMATCHED.replace('"failed"', '"error"'))
    before = path.read_text()
    extend_conftest(
        "def pytest_collection_modifyitems(items):\n"
        f"    for item in items:\n        item.add_marker(pytest.mark.{mark})\n"
    )
    flags = [ZOO, FILE, UPDATE, "--headswap-models=mismatched", "--headswap-checks=native_parity"]
    result = project.runpytest_inprocess(*flags)
    result.assert_outcomes(**expected)
    assert result.ret == 0
    assert path.read_text() == before


def test_a_model_that_is_not_run_is_not_built_unless_requested(
    project: pytest.Pytester,
    write: Write,
    extend_conftest: Extend,
    journal: Journal,
    builds: Callable[[], list[str]],
) -> None:
    extend_conftest("SPECS['beta.v1_5']['skip_reason'] = 'it has no classes'\n")
    write(NOT_RUN + NOT_RUN.replace('"unbuildable"', '"alpha"\nchecks = "output_shape"'))
    flags = [ZOO, TWO, FILE, "--headswap-models=alpha,beta*,unbuildable"]
    result = project.runpytest_inprocess(*flags)
    result.assert_outcomes(passed=1, skipped=5)
    assert result.ret == 0
    assert set(builds()) == {"alpha"}
    item = journal()["testzoo::unbuildable::output_shape"]
    assert (item.outcome, item.reason, item.message) == ("skipped", "not_run", "[not_run] it takes the machine with it")

    result = project.runpytest_inprocess(*flags, "--headswap-run-skipped", UPDATE)
    result.assert_outcomes(passed=4, xfailed=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "run although normally skipped: 5 results; *",
            "  testzoo::alpha, output_shape: passed (not run by testzoo.toml, line *: it takes the machine with it)",
            "  testzoo::beta.v1_5, native_parity, output_shape: passed (refused by the zoo: it has no classes)",
            "  testzoo::unbuildable, native_parity, output_shape: error: ValueError: no such depth (not run by *)",
            "*testzoo.toml: nothing to update",
        ]
    )
    alone = project.runpytest_inprocess(ZOO, TWO, "--headswap-models=beta*", "--headswap-run-skipped")
    alone.assert_outcomes(passed=2)
    alone.stdout.fnmatch_lines(["run although normally skipped: 2 results; *"])


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (MISMATCHED.replace("reason", "reasons"), "testzoo.toml, line 2: unknown key 'reasons': did you mean reason?*"),
        (
            MISMATCHED.replace("native_parity", "nativ_parity"),
            "line 2: unknown check 'nativ_parity': did*",
        ),
        (
            MISMATCHED + MISMATCHED.replace('"failed"', '"error"'),
            "testzoo::mismatched::native_parity is covered twice*",
        ),
        (
            MISMATCHED + 'when = {testlub = "<2"}\n',
            "line 2: when.testlub names a library that is not installed: did you mean testlib?",
        ),
    ],
)
def test_an_invalid_file_stops_the_run_before_it_starts(
    project: pytest.Pytester, write: Write, text: str, printed: str
) -> None:
    write(text)
    result = project.runpytest_inprocess(ZOO, FILE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --headswap-expectations: *{printed}"])
    assert not (project.path / "headswap-report").exists()


def test_a_missing_file_and_a_file_without_a_zoo_are_usage_errors(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, "--headswap-expectations=none.toml")
    result.stderr.fnmatch_lines(["*/none.toml does not exist. --headswap-update-expectations creates a file*"])
    (project.path / "some.toml").write_text(MISMATCHED)
    result = project.runpytest_inprocess(ZOO, "--headswap-expectations=some.toml")
    result.stderr.fnmatch_lines(['*some.toml, line 2: zoo is missing*Write zoo = "testzoo"'])
    (project.path / "folder").mkdir()
    (project.path / "folder" / "testzoo.toml").write_text(MISMATCHED.replace("models", 'zoo = "timm"\nmodels'))
    result = project.runpytest_inprocess(ZOO, "--headswap-expectations=folder")
    result.stderr.fnmatch_lines(["*folder/testzoo.toml, line 2: zoo is 'timm', but this is the file of 'testzoo'*"])
    result = project.runpytest_inprocess(ZOO, UPDATE)
    result.stderr.fnmatch_lines(["*--headswap-update-expectations requires --headswap-expectations=FILE_OR_FOLDER"])


def test_the_command_line_overrides_the_file_in_the_ini_file(project: pytest.Pytester, write: Write) -> None:
    write(MISMATCHED)
    project.makeini("[pytest]\nheadswap_expectations = testzoo.toml\n")
    flags = [ZOO, "--headswap-models=mismatched", "--headswap-checks=native_parity"]
    project.runpytest_inprocess(*flags).assert_outcomes(xfailed=1)
    project.runpytest_inprocess(*flags, "--headswap-expectations=").assert_outcomes(failed=1)


def test_a_file_that_becomes_invalid_during_a_run_is_reported_and_not_changed(
    project: pytest.Pytester, write: Write, extend_conftest: Extend
) -> None:
    path = write(MISMATCHED)
    extend_conftest(f"def pytest_headswap_case(case):\n    open({str(path)!r}, 'w').write('nonsense')\n")
    result = project.runpytest_inprocess(ZOO, TWO, FILE, UPDATE, "--headswap-models=alpha")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["FAILED: testzoo.toml was not updated: testzoo.toml: invalid TOML*"])
    assert path.read_text() == "nonsense"


def test_a_full_traceback_includes_the_expectation(project: pytest.Pytester, write: Write) -> None:
    write(MISMATCHED.replace("the state_dict differs", "else"))
    result = project.runpytest_inprocess(ZOO, TWO, FILE, "--headswap-models=mismatched", "--tb=native")
    result.stdout.fnmatch_lines(["*is failed, but testzoo.toml, line 2 expects failed*matches 'else'*"])


def test_the_issue_of_an_entry_is_shown_in_reports(project: pytest.Pytester, write: Write, journal: Journal) -> None:
    write(MISMATCHED + "issue = 12\n")
    result = project.runpytest_inprocess("testzoo::mismatched::native_parity", FILE, "-rx")
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["XFAIL testzoo::mismatched::native_parity - its native model is another one (#12)"])
    (item,) = journal().values()
    assert item.expectation == "its native model is another one (#12)"


def test_an_entry_that_has_ended_no_longer_holds_and_says_so(
    project: pytest.Pytester, write: Write, journal: Journal
) -> None:
    write(MISMATCHED + 'until = { testlib = "1.1" }\n')
    result = project.runpytest_inprocess("testzoo::mismatched::native_parity", FILE)
    result.assert_outcomes(failed=1)
    text = "the expectation of testzoo.toml, line 2 ended with testlib 1.1: its native model is another one"
    result.stdout.fnmatch_lines(
        [f"*{text}", "ENDED: 1 entry no longer applied. Delete what is fixed, or set a later end:"]
    )
    (item,) = journal().values()
    assert (item.outcome, item.expectation) == ("failed", text)
    write(MISMATCHED + 'until = { testlib = "1.3" }\n')
    project.runpytest_inprocess("testzoo::mismatched::native_parity", FILE).assert_outcomes(xfailed=1)


def test_an_update_lists_a_failure_again_after_its_entry_has_ended(project: pytest.Pytester, write: Write) -> None:
    path = write(MISMATCHED + "until = 2000-01-01\n")
    project.runpytest_inprocess("testzoo::mismatched::native_parity", FILE, UPDATE)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(MISMATCHED)
    assert text.count("[[expect]]") == 2
