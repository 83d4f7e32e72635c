"""`--headswap-since` takes results over where nothing has changed that they rest on, and runs everything else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pytest_headswap.cli.main import main
from pytest_headswap.report.scope import readable_date
from pytest_headswap.results import Result, read_journal

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

RUN = ("--headswap-zoo=testzoo", "--headswap-checks=output_shape,native_parity")
SINCE = ("--headswap-since=base",)
BASE = ("--headswap-report=base",)


def _edit(project: pytest.Pytester, edit: Callable[[list[str]], list[str]], folder: str = "base") -> None:
    path: Path = project.path / folder / "results.jsonl"
    path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))


def test_results_are_taken_over_and_failures_run_again(
    project: pytest.Pytester, journal: Journal, builds: Callable[[], list[str]]
) -> None:
    project.runpytest_inprocess(*RUN, *BASE)
    base = journal("base")
    started = read_journal(project.path / "base")[0].started
    (project.path / "builds.txt").unlink()
    result = project.runpytest_inprocess(*RUN, *SINCE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=6, failed=1, skipped=3, errors=6)
    result.stdout.fnmatch_lines(
        [
            f"headswap: since {started}: 9 of 16 results taken over; 7 run: 7 failed, flaky or not comparable",
            "testzoo: 16 results: 6 passed, 1 failed, 3 skipped, 6 error",
            f"taken over from earlier runs: 9 results ({started})",
        ]
    )
    assert set(builds()) == {"mismatched", "raising", "unbuildable", "wrong_inputs"}
    results = journal()
    assert {key: item.outcome for key, item in results.items()} == {key: item.outcome for key, item in base.items()}
    taken = {key for key, item in results.items() if item.taken_over}
    assert {results[key].taken_over for key in taken} == {started}
    assert len(taken) == 9
    report = project.path / "headswap-report"
    assert "9 results taken over from earlier runs" in (report / "summary.md").read_text()
    assert re.search(r"9 of \d+ results, from 1 earlier run \(", (report / "index.html").read_text())
    (page,) = (report / "architectures").glob("alpha-*.html")
    assert page.read_text().count(">taken over</span>") == 2
    assert f"Taken over from the run of {readable_date(started)}" in page.read_text()
    assert all(results[key].key == base[key].key != "" for key in results)
    assert sum(item.anatomy is not None for item in results.values()) == sum(
        item.anatomy is not None for item in base.values()
    )


def test_a_chain_of_runs_keeps_when_a_result_was_found(project: pytest.Pytester, journal: Journal) -> None:
    models = "--headswap-models=alpha"
    project.runpytest_inprocess(*RUN, models, *BASE)
    _edit(project, lambda lines: [lines[0].replace('"started": "2', '"started": "1'), *lines[1:]])
    started = read_journal(project.path / "base")[0].started
    for _ in range(2):  # the second run reads the journal that it replaces
        project.runpytest_inprocess(*RUN, models, *SINCE, *BASE).assert_outcomes(passed=2)
    assert {item.taken_over for item in journal("base").values()} == {started}


@pytest.mark.parametrize("flags", [[], ["-n2"]], ids=["alone", "with xdist"])
def test_junit_and_pytest_report_results_that_are_taken_over(
    project: pytest.Pytester, journal: Journal, builds: Callable[[], list[str]], flags: list[str]
) -> None:
    models = "--headswap-models=alpha,beta*,lonely,mismatched"
    project.runpytest_inprocess(*RUN, models, *BASE)
    started = read_journal(project.path / "base")[0].started
    (project.path / "builds.txt").unlink()
    run = project.runpytest_subprocess if flags else project.runpytest_inprocess
    result = run(*RUN, models, *SINCE, *flags, "--junitxml=junit.xml", "-v")
    result.assert_outcomes(passed=6, skipped=1, failed=1)
    assert result.stdout.str().count("TAKEN OVER") == 6
    assert builds() == ["mismatched"]
    cases = ET.parse(project.path / "junit.xml").iter("testcase")
    properties = [{item.get("name"): item.get("value") for item in case.iter("property")} for case in cases]
    assert [item.get("taken_over") for item in properties].count(started) == 7
    assert len(journal()) == 8


def test_the_journal_covers_only_what_the_run_selects(project: pytest.Pytester, journal: Journal) -> None:
    project.runpytest_inprocess(*RUN, *BASE)
    result = project.runpytest_inprocess(*RUN, *SINCE, "-k", "alpha")
    result.assert_outcomes(passed=2, deselected=14)
    assert {item.model for item in journal().values()} == {"alpha"}


def test_shards_and_merge_keep_what_was_taken_over(project: pytest.Pytester, journal: Journal) -> None:
    project.runpytest_inprocess(*RUN, *BASE)
    for number in (1, 2):
        project.runpytest_inprocess(*RUN, *SINCE, f"--headswap-shard={number}/2", f"--headswap-report=shard-{number}")
    assert main(["merge", str(project.path / "whole"), *(str(project.path / f"shard-{n}") for n in (1, 2))]) == 0
    assert sum(bool(item.taken_over) for item in journal("whole").values()) == 9
    result = project.runpytest_inprocess(*RUN, "--headswap-since=whole")
    result.stdout.fnmatch_lines(["headswap: since *: 9 of 16 results taken over; *"])


def test_an_interrupted_run_is_resumed_and_the_rest_taken_over(project: pytest.Pytester, journal: Journal) -> None:
    models = "--headswap-models=alpha,beta*"
    project.runpytest_inprocess(*RUN, models, *BASE)
    project.runpytest_inprocess(*RUN, models)
    _edit(project, lambda lines: lines[:2], "headswap-report")
    result = project.runpytest_inprocess(*RUN, models, *SINCE, "--headswap-resume")
    result.assert_outcomes(passed=3, deselected=1)
    assert [bool(item.taken_over) for item in journal().values()] == [False, True, True, True]


EXPECTED = '[[expect]]\nmodels = "mismatched"\nchecks = "native_parity"\noutcome = "failed"\nreason = "another one"\n'


def test_expectations_are_applied_anew(project: pytest.Pytester, journal: Journal) -> None:
    flags = ("--headswap-models=alpha,mismatched", "--headswap-expectations=testzoo.toml")
    file = project.path / "testzoo.toml"
    file.write_text(EXPECTED)
    project.runpytest_inprocess(*RUN, *flags, *BASE).assert_outcomes(passed=3, xfailed=1)
    result = project.runpytest_inprocess(*RUN, *flags, *SINCE)
    result.assert_outcomes(passed=3, xfailed=1)
    assert all(item.taken_over for item in journal().values())
    file.write_text(EXPECTED.replace("another one", "a new reason"))
    project.runpytest_inprocess(*RUN, *flags, *SINCE)
    assert journal()["testzoo::mismatched::native_parity"].expectation == "a new reason"
    file.write_text("")
    project.runpytest_inprocess(*RUN, *flags, *SINCE).assert_outcomes(passed=3, failed=1)
    assert not journal()["testzoo::mismatched::native_parity"].taken_over, "a failure runs again"
    file.write_text(EXPECTED.replace("mismatched", "alpha"))
    project.runpytest_inprocess(*RUN, *flags, *SINCE).assert_outcomes(passed=2, failed=2)
    file.write_text(f"{EXPECTED}may_pass = true\n")
    project.runpytest_inprocess(*RUN, *flags, *SINCE)
    assert not journal()["testzoo::mismatched::native_parity"].taken_over, "what may pass is flaky"
    file.write_text('[[expect]]\nmodels = "alpha"\noutcome = "skipped"\nrun = false\nreason = "slow"\n')
    project.runpytest_inprocess(*RUN, *flags, *SINCE).assert_outcomes(passed=1, skipped=2, failed=1)


def test_a_test_that_failed_last_time_runs_under_lf(project: pytest.Pytester, journal: Journal) -> None:
    models = "--headswap-models=alpha,mismatched"
    project.runpytest_inprocess(*RUN, models, *BASE)
    cache = project.path / ".pytest_cache" / "v" / "cache" / "lastfailed"
    cache.write_text(json.dumps({"testzoo::alpha::output_shape": True}))
    project.runpytest_inprocess(*RUN, models, *SINCE, "--lf").assert_outcomes(passed=1, deselected=3)
    assert not journal()["testzoo::alpha::output_shape"].taken_over


REPEAT = """
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    from _pytest.runner import runtestprotocol
    for attempt in (1, 2):
        for report in runtestprotocol(item, nextitem=item if attempt == 1 else nextitem, log=False):
            if attempt == 1 and report.when == "call":
                report.outcome = "rerun"  # like pytest-rerunfailures
            item.ihook.pytest_runtest_logreport(report=report)
    return True
"""


def test_a_repeated_test_is_flaky_and_runs_again(
    project: pytest.Pytester, journal: Journal, extend_conftest: Extend
) -> None:
    extend_conftest(REPEAT)
    run = (*RUN, "--headswap-models=alpha")
    project.runpytest_inprocess(*run, *BASE)
    assert [item.outcome for item in journal("base").values()] == ["passed"] * 2
    assert all(item.key.startswith("?") for item in journal("base").values())
    result = project.runpytest_inprocess(*run, *SINCE)
    result.stdout.fnmatch_lines(["headswap: since *: 0 of 2 results taken over; 2 run: 2 failed, flaky *"])


def test_the_header_says_what_has_changed(project: pytest.Pytester, extend_conftest: Extend) -> None:
    run = (*RUN, "--headswap-models=alpha")
    project.runpytest_inprocess(*run, *BASE)
    extend_conftest("CHANGED = True")
    result = project.runpytest_inprocess(*run, *SINCE, "--headswap-num-classes=3", "--collect-only")
    result.stdout.fnmatch_lines(
        [
            "headswap: since *: 0 of 2 results taken over; 2 run: 2 changed",
            "headswap: since: changed: num_classes was 7 and is 3, conftest.py",
        ]
    )
    extend_conftest("import importlib\ndef load_plugin(name):\n    return importlib.import_module(name)")
    result = project.runpytest_inprocess(*run, *SINCE, "--collect-only")
    result.stdout.fnmatch_lines(
        [
            "headswap: since *: 0 of 2 results taken over; 2 run: 2 unknown",
            "headswap: since: 2 unknown: conftest.py imports a module by a computed name",
        ]
    )


def test_other_models_and_checks_of_the_run_do_not_matter(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(*RUN, "--headswap-models=alpha", *BASE)
    flags = ("--headswap-zoo=testzoo", "--headswap-checks=output_shape,metadata", "--headswap-models=alpha,beta*")
    result = project.runpytest_inprocess(*flags, *SINCE)
    result.stdout.fnmatch_lines(["headswap: since *: 1 of 4 results taken over; 3 run: 3 new"])


def test_verified_results_must_agree(project: pytest.Pytester, builds: Callable[[], list[str]]) -> None:
    run = (*RUN, "--headswap-models=alpha,beta*")
    project.runpytest_inprocess(*run, *BASE)
    (project.path / "builds.txt").unlink()
    result = project.runpytest_inprocess(*run, *SINCE, "--headswap-since-verify=1%")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "headswap: since *: 2 of 4 results taken over; 2 run: 2 to verify",
            "verified: 2 earlier results, without a difference",
        ]
    )
    (once,) = set(builds())
    project.runpytest_inprocess(*run, *SINCE, "--headswap-since-verify=1%")
    assert set(builds()) == {once}, "the same model, because the journal is the same"

    def spoil(lines: list[str]) -> list[str]:
        header, *results = [json.loads(line) for line in lines]
        for item in results:
            item["outcome"], item["reason"] = "skipped", "no_native"
        return [json.dumps(item) + "\n" for item in (header, *results)]

    _edit(project, spoil)
    result = project.runpytest_inprocess(*run, *SINCE, "--headswap-since-verify=100%")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            "FAILED: --headswap-since-verify: 4 results of the earlier run no longer hold*",
            "  testzoo::alpha::output_shape: outcome was 'skipped' on * and is 'passed'",
        ]
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--headswap-since=nowhere"], "--headswap-since: cannot read the journal *nowhere*"),
        (["--headswap-since=conftest.py"], "--headswap-since: *line 1: not the header of a headswap journal*"),
        (["--headswap-since-verify=5%"], "--headswap-since-verify has no effect without --headswap-since*"),
        (["--headswap-since=x", "--headswap-since-verify=0%"], "--headswap-since-verify must be a percentage *'0%'"),
        (["--headswap-since=x", "--headswap-since-verify=5"], "--headswap-since-verify must be a percentage *'5'"),
        (["--headswap-since=x", "--headswap-since-verify=101%"], "*must be a percentage such as 5%, not '101%'"),
        (["--headswap-since=x", "--headswap-since-verify=nan%"], "*must be a percentage such as 5%, not 'nan%'"),
    ],
)
def test_wrong_options_are_refused(project: pytest.Pytester, flags: list[str], message: str) -> None:
    result = project.runpytest_inprocess(*RUN, *flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
