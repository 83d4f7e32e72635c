"""A run resumes an interrupted one; a journal that cannot be written is a warning without a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_headswap.results import Result, read_journal

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

RUN = ("--headswap-zoo=testzoo", "--headswap-checks=output_shape,native_parity")
RESUME = (*RUN, "--headswap-resume")


def _edit(project: pytest.Pytester, edit: Callable[[list[str]], list[str]], folder: str = "headswap-report") -> None:
    path: Path = project.path / folder / "results.jsonl"
    path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))


def test_finished_results_are_kept_and_the_rest_runs(
    project: pytest.Pytester, journal: Journal, builds: Callable[[], list[str]]
) -> None:
    project.runpytest_inprocess(*RUN)
    whole = journal()
    _edit(project, lambda lines: [*lines[:8], lines[8][:40]])  # cut in the middle of a line
    (project.path / "builds.txt").unlink()
    result = project.runpytest_inprocess(*RESUME)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1, skipped=1, errors=6, deselected=7)
    result.stdout.fnmatch_lines(
        [
            "headswap: resume: 7 results kept from the earlier run",
            "testzoo: 16 results: 6 passed, 1 failed, 3 skipped, 6 error",
            "kept from the earlier run: 7 results",
            "journal: *",
        ]
    )
    assert set(builds()) == {"lonely", "mismatched", "raising", "unbuildable", "wrong_inputs"}
    results = journal()
    assert list(results) == list(whole)
    assert {key: item.outcome for key, item in results.items()} == {key: item.outcome for key, item in whole.items()}


def test_kept_failures_are_named_and_fail_the_run(project: pytest.Pytester, journal: Journal) -> None:
    flags = ("--headswap-models=alpha,mismatched",)
    project.runpytest_inprocess(*RUN, *flags)
    before = journal()
    result = project.runpytest_inprocess(*RESUME, *flags)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(deselected=4)
    result.stdout.fnmatch_lines(
        [
            "testzoo: 4 results: 3 passed, 1 failed",
            "kept from the earlier run: 4 results",
            "  failed testzoo::mismatched::native_parity - the state_dict differs*",
        ]
    )
    assert journal() == before


def test_resuming_a_complete_run_succeeds(project: pytest.Pytester) -> None:
    for flags in RUN, RESUME, RESUME:
        assert project.runpytest_inprocess(*flags, "--headswap-models=alpha").ret == pytest.ExitCode.OK


def test_crashes_and_timeouts_are_rerun(project: pytest.Pytester, journal: Journal) -> None:
    project.runpytest_inprocess(*RUN, "--headswap-models=alpha,lonely")

    def spoil(lines: list[str]) -> list[str]:
        results = [json.loads(line) for line in lines]
        results[1]["outcome"], results[2]["outcome"] = "crashed", "timeout"
        return [json.dumps(result) + "\n" for result in results]

    _edit(project, spoil)
    result = project.runpytest_inprocess(*RESUME, "--headswap-models=alpha,lonely")
    result.assert_outcomes(passed=2, deselected=2)
    result.stdout.fnmatch_lines(["headswap: resume: 2 results kept from the earlier run; 2 to rerun"])
    assert [item.outcome for item in journal().values()] == ["passed", "skipped", "passed", "passed"]


def test_hooks_get_kept_results_like_any_other(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(
        "def pytest_headswap_result(config, result):\n"
        "    with (config.rootpath / 'told.txt').open('a') as file:\n"
        "        file.write(f'{result.nodeid}\\n')\n"
    )
    for flags in RUN, RESUME:
        project.runpytest_inprocess(*flags, "--headswap-models=alpha")
    expected = (project.path / "told.txt").read_text().splitlines()
    assert expected == ["testzoo::alpha::output_shape", "testzoo::alpha::native_parity"] * 2


def test_everything_runs_if_there_is_no_journal(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(*RESUME, "--headswap-models=alpha")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["headswap: resume: there are no earlier results, so all checks run"])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--headswap-num-classes=3", "num_classes was 7 and is 3. Use the same options, choose *"),
        ("--headswap-models=alpha", "models was 'alpha,lonely' and is 'alpha'. *"),
        ("--headswap-timeout=7", "timeout was 300 and is 7. *"),
        ("--headswap-shard=1/2", "part differs; selection differs; shard was None and is '1/2'. *"),
    ],
)
def test_the_journal_of_another_run_is_refused_with_the_differences(
    project: pytest.Pytester, journal: Journal, flag: str, message: str
) -> None:
    models = "--headswap-models=alpha,lonely"
    project.runpytest_inprocess(*RUN, models)
    before = journal()
    result = project.runpytest_inprocess(*RESUME, models, flag)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --headswap-resume: the journal * belongs to another run: {message}"])
    assert journal() == before


def test_a_journal_with_other_versions_and_a_malformed_one_are_refused(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(*RUN, "--headswap-models=alpha")
    _edit(project, lambda lines: [lines[0].replace('"testlib": "1.2"', '"testlib": "1.1"'), *lines[1:]])
    result = project.runpytest_inprocess(*RESUME, "--headswap-models=alpha")
    result.stderr.fnmatch_lines(["ERROR: *testlib was '1.1' and is '1.2'. *"])
    _edit(project, lambda _: ["nonsense\n"])
    result = project.runpytest_inprocess(*RESUME, "--headswap-models=alpha")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --headswap-resume: *line 1: not the header of a headswap journal*"])


def test_a_shard_is_resumed_on_workers_too(project: pytest.Pytester, journal: Journal) -> None:
    pytest.importorskip("xdist")
    shard = "--headswap-shard=1/2"
    project.runpytest_inprocess(*RUN, shard)
    whole = journal()
    _edit(project, lambda lines: lines[:4])
    result = project.runpytest_subprocess(*RESUME, shard, "-n", "1")
    result.stdout.fnmatch_lines(["headswap: resume: 3 results kept from the earlier run"])
    assert journal().keys() == whole.keys()
    assert read_journal(project.path / "headswap-report")[0].options["shard"] == "1/2"


EXPECTED = """
[[expect]]
models = "mismatched"
checks = "native_parity"
outcome = "failed"
reason = "its native model is another one"
"""

UNEXPECTED = """
[[expect]]
models = "alpha"
checks = "native_parity"
outcome = "failed"
reason = "it did, once"
"""


def test_kept_results_are_matched_against_the_current_expectations(project: pytest.Pytester, journal: Journal) -> None:
    flags = ("--headswap-models=alpha,mismatched", "--headswap-expectations=testzoo.toml")
    file = project.path / "testzoo.toml"
    file.write_text("")
    assert project.runpytest_inprocess(*RUN, *flags).ret == pytest.ExitCode.TESTS_FAILED
    file.write_text(EXPECTED)
    result = project.runpytest_inprocess(*RESUME, *flags)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "headswap: resume: 4 results kept from the earlier run, 1 with another outcome under the current *",
            "testzoo: 4 results: 3 passed, 1 xfailed",
        ]
    )
    item = journal()["testzoo::mismatched::native_parity"]
    assert (item.outcome, item.raw_outcome, item.expectation) == (
        "xfailed",
        "failed",
        "its native model is another one",
    )
    file.write_text(UNEXPECTED)
    result = project.runpytest_inprocess(*RESUME, *flags)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "testzoo: 4 results: 2 passed, 1 failed, 1 xpassed",
            "  xpassed testzoo::alpha::native_parity - passes, but testzoo.toml, line 2 expects failed: it did, once",
            "  failed testzoo::mismatched::native_parity - the state_dict differs*",
        ]
    )


def test_a_check_excluded_by_the_file_runs_once_the_entry_is_removed(
    project: pytest.Pytester, journal: Journal
) -> None:
    flags = ("--headswap-models=alpha,beta*", "--headswap-expectations=testzoo.toml")
    file = project.path / "testzoo.toml"
    kept = '[[expect]]\nmodels = "alpha"\noutcome = "skipped"\nrun = false\nreason = "it takes the machine with it"\n'
    file.write_text(kept)
    result = project.runpytest_inprocess(*RUN, *flags)
    result.stdout.fnmatch_lines(["  skipped 2: [[]not_run] the expectations file excludes it from running"])
    file.write_text("")
    result = project.runpytest_inprocess(*RESUME, *flags)
    result.assert_outcomes(passed=2, deselected=2)
    result.stdout.fnmatch_lines(["headswap: resume: 2 results kept from the earlier run; 2 to rerun"])
    file.write_text(kept)
    project.runpytest_inprocess(*RESUME, *flags).assert_outcomes(skipped=2, deselected=2)
    project.runpytest_inprocess(*RESUME, *flags, "--headswap-run-skipped").assert_outcomes(passed=2, deselected=2)
    assert [item.outcome for item in journal().values()] == ["passed"] * 4


FULL = """
import resource, signal
def pytest_headswap_result(config, result):
    if result.check == "native_parity" and result.model == "alpha":
        size = (config.rootpath / "headswap-report" / "results.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
    if result.model == "lonely":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits for files")
def test_a_full_disk_is_a_loud_warning_and_the_run_continues(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(FULL)
    flags = (*RUN, "--headswap-models=alpha,beta*,lonely", "-p", "no:cacheprovider")
    result = project.runpytest_inprocess(*flags)
    result.assert_outcomes(passed=5, skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "headswap: WARNING: cannot write to *results.jsonl: File too large. The run continues *",
            "testzoo: 6 results: 5 passed, 1 skipped",
            "WARNING: 3 results are not in the journal: cannot write to *",
        ]
    )
    assert result.stdout.str().count("headswap: WARNING") == 1
    assert [item.model for item in journal().values()] == ["alpha", "alpha", "lonely"], "whole lines, and no torn one"
    result = project.runpytest_inprocess(*flags, "--headswap-resume")
    result.assert_outcomes(passed=3, deselected=3)


MODELS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(x)
"""
OF_FILE = ("--headswap-zoo=zoo.py:ZOO", "--headswap-checks=output_shape,native_parity")


@pytest.fixture
def zoo_file(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a zoo in a file that imports a module beside it, and one inside a function."""
    monkeypatch.syspath_prepend(project.path)
    (project.path / "models.py").write_text(MODELS)
    (project.path / "parts").mkdir()
    (project.path / "parts" / "__init__.py").write_text("")
    (project.path / "parts" / "late.py").write_text(MODELS.replace("Net", "Late"))
    path = project.path / "zoo.py"
    path.write_text(
        "from models import Net\n\n\n"
        "def late(num_classes=10):\n    from parts.late import Late\n    return Late(num_classes)\n\n\n"
        "ZOO = {'net': Net, 'late': late}\n"
    )
    return path


def test_results_are_kept_if_the_code_of_the_zoo_has_not_changed(project: pytest.Pytester, zoo_file: Path) -> None:
    project.runpytest_subprocess(*OF_FILE).assert_outcomes(passed=4)
    zoo_file.touch()
    (project.path / "test_other.py").write_text("def test_other():\n    pass\n")
    result = project.runpytest_subprocess(*OF_FILE, "--headswap-resume")
    result.assert_outcomes(deselected=4)
    result.stdout.no_fnmatch_line("*changed since*")


@pytest.mark.parametrize(
    ("name", "shown", "models", "flags"),
    [
        pytest.param("zoo.py", "zoo.py", 2, ["-n1"], marks=pytest.mark.slow),
        ("models.py", "models.py", 2, []),
        pytest.param("parts/late.py", "parts/", 1, [], marks=pytest.mark.slow),
        ("parts/new.py", "parts/", 1, ["-n1"]),
    ],
    ids=str,
)
def test_models_run_again_if_a_file_that_defines_them_has_changed(
    project: pytest.Pytester, zoo_file: Path, journal: Journal, name: str, shown: str, models: int, flags: list[str]
) -> None:
    project.runpytest_subprocess(*OF_FILE).assert_outcomes(passed=4)
    with (project.path / name).open("a") as file:
        file.write("\nCHANGED = True\n")
    result = project.runpytest_subprocess(*OF_FILE, "--headswap-resume", *flags)
    kept = 0 if flags else 4 - 2 * models  # xdist does not count what its workers deselect
    result.assert_outcomes(passed=2 * models, deselected=kept)
    count = "2 models" if models == 2 else "1 model"
    result.stdout.fnmatch_lines(
        [f"headswap: resume: {shown} changed since the earlier run, so {count} of zoo.py:ZOO run again"]
    )
    assert len(journal()) == 4
    project.runpytest_subprocess(*OF_FILE, "--headswap-resume").assert_outcomes(deselected=4)


def test_a_change_to_one_zoo_keeps_the_results_of_the_others(
    project: pytest.Pytester, zoo_file: Path, journal: Journal
) -> None:
    run = ("--headswap-zoo=testzoo,zoo.py:ZOO", "--headswap-checks=output_shape", "--headswap-models=net,late,alpha")
    first = project.runpytest_subprocess(*run)
    first.assert_outcomes(passed=3)
    zoo_file.write_text(zoo_file.read_text() + "\n")
    result = project.runpytest_subprocess(*run, "--headswap-resume")
    result.assert_outcomes(passed=2, deselected=1)
    assert len(journal()) == 3


def test_models_run_again_if_an_installed_package_of_theirs_has_another_version(
    project: pytest.Pytester, zoo_file: Path
) -> None:
    installed = project.path / "site-packages"
    (installed / "layers").mkdir(parents=True)
    (installed / "layers" / "__init__.py").write_text("")
    project.makeini(f"[pytest]\npythonpath = {installed}\n")
    zoo_file.write_text(f"import layers\n{zoo_file.read_text()}")

    def install(version: str) -> None:
        for old in installed.glob("*.dist-info"):
            (old / "METADATA").unlink()
            old.rmdir()
        info = installed / f"layers-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: layers\nVersion: {version}\n")

    install("1.0")
    project.runpytest_subprocess(*OF_FILE).assert_outcomes(passed=4)
    project.runpytest_subprocess(*OF_FILE, "--headswap-resume").assert_outcomes(deselected=4)
    install("1.1")
    result = project.runpytest_subprocess(*OF_FILE, "--headswap-resume")
    result.assert_outcomes(passed=2, deselected=2)  # a class rests on its own module only
    result.stdout.fnmatch_lines(["headswap: resume: layers changed since the earlier run, so 1 model of zoo.py:ZOO *"])


def test_a_zoo_of_a_conftest_runs_again_if_the_conftest_has_changed(
    project: pytest.Pytester, extend_conftest: Extend
) -> None:
    flags = (*RUN, "--headswap-models=alpha")
    project.runpytest_subprocess(*flags).assert_outcomes(passed=2)
    extend_conftest("CHANGED = True")
    project.runpytest_subprocess(*flags, "--headswap-resume").assert_outcomes(passed=2)


def test_a_journal_that_does_not_know_the_code_is_kept(project: pytest.Pytester, zoo_file: Path) -> None:
    project.runpytest_subprocess(*OF_FILE).assert_outcomes(passed=4)

    def forget(lines: list[str]) -> list[str]:
        header = json.loads(lines[0])
        del header["code"]
        return [json.dumps(header) + "\n", *lines[1:]]

    _edit(project, forget)
    project.runpytest_subprocess(*OF_FILE, "--headswap-resume").assert_outcomes(deselected=4)
