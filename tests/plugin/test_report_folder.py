"""A run owns its report folder and keeps its results whatever happens to the folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from pytest_headswap.results import Result, read_journal
from pytest_headswap.results.lock import FolderLock

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

ZOO = "--headswap-zoo=testzoo"
TWO = "--headswap-checks=output_shape,native_parity"
SOUND = "--headswap-models=alpha,beta*"

# Runs in the process of pytest after the result of each test; `AFTER` is the test after which the folder is touched.
MEDDLING = """
import shutil
from pathlib import Path
FOLDER = Path(__file__).parent / "headswap-report"
AFTER = "{after}"

def meddle():
    {meddle}

@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    if report.nodeid == AFTER and report.when == "teardown":
        meddle()
"""
COMMAND = (sys.executable, "-c", "from pytest_headswap.cli.main import main; raise SystemExit(main())")
FIRST, LAST = "testzoo::alpha::output_shape", "testzoo::beta.v1_5::native_parity"


def _summary(project: pytest.Pytester, folder: str = "headswap-report") -> str:
    return (project.path / folder / "summary.md").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
@pytest.mark.parametrize("after", [FIRST, LAST], ids=["early", "at-the-end"])
@pytest.mark.parametrize(
    "meddle",
    # a worker runs the hook too, and may be first
    [
        "shutil.rmtree(FOLDER, ignore_errors=True)",
        "(FOLDER / 'results.jsonl').unlink()",
        "FOLDER.rename(FOLDER.parent / 'gone')",
    ],
)
@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "with-xdist"])
def test_a_deleted_report_folder_is_restored_and_reported(
    project: pytest.Pytester,
    extend_conftest: Extend,
    journal: Journal,
    after: str,
    meddle: str,
    workers: tuple[str, ...],
) -> None:
    if workers:
        pytest.importorskip("xdist")
        if after == FIRST or "rmtree" not in meddle:
            pytest.skip("once is enough")
    extend_conftest(MEDDLING.format(after=after, meddle=meddle))
    run = project.runpytest_subprocess if workers else project.runpytest_inprocess
    result = run(ZOO, TWO, SOUND, *workers)
    result.assert_outcomes(passed=4)
    assert result.ret == 0
    assert len(journal()) == 4
    assert "4 results" in _summary(project)
    message = "*results.jsonl was deleted during the run. It was written again, with * so far"
    result.stdout.fnmatch_lines([f"*headswap: WARNING: {message}", f"WARNING: {message}"])


REPLACING = {
    "moved": "(FOLDER / 'x').write_text('x'); (FOLDER / 'x').replace(FOLDER / 'results.jsonl')",
    "other-folder": "shutil.rmtree(FOLDER); FOLDER.mkdir(); (FOLDER / 'results.jsonl').write_text('x')",
}


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be replaced there")
@pytest.mark.parametrize("after", [FIRST, LAST], ids=["early", "at-the-end"])
@pytest.mark.parametrize("meddle", REPLACING.values(), ids=REPLACING.keys())
def test_a_replaced_journal_fails_the_run_and_no_result_is_dropped(
    project: pytest.Pytester, extend_conftest: Extend, after: str, meddle: str
) -> None:
    extend_conftest(MEDDLING.format(after=after, meddle=meddle))
    result = project.runpytest_inprocess(ZOO, TWO, SOUND)
    result.assert_outcomes(passed=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    folder = project.path / "headswap-report"
    assert (folder / "results.jsonl").read_text() == "x"
    (kept,) = folder.glob("results-*.jsonl")
    assert len(read_journal(kept)[1]) == 4
    result.stdout.fnmatch_lines(
        [
            f"warning: the report was not written: `headswap report {kept} *",
            f"journal: {kept}",
            f"WARNING: another program replaced *. The results of this run are in {kept}",
        ]
    )
    assert not (folder / "summary.md").exists()


SPOILING = {
    "truncated": "(FOLDER / 'results.jsonl').write_bytes(b'')",
    "copied-over": "shutil.copyfile(__file__, FOLDER / 'results.jsonl')",
    "appended": "(FOLDER / 'results.jsonl').open('a').write('x')",
}


@pytest.mark.parametrize("after", [FIRST, LAST], ids=["early", "at-the-end"])
@pytest.mark.parametrize("meddle", SPOILING.values(), ids=SPOILING.keys())
def test_a_journal_modified_by_another_program_fails_the_run(
    project: pytest.Pytester, extend_conftest: Extend, after: str, meddle: str
) -> None:
    extend_conftest(MEDDLING.format(after=after, meddle=meddle))
    result = project.runpytest_inprocess(ZOO, TWO, SOUND)
    result.assert_outcomes(passed=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["WARNING: *another program wrote to *results.jsonl during the run*"])
    assert not (project.path / "headswap-report" / "summary.md").exists()


IN_USE = (
    "ERROR: the report folder *headswap-report is in use: process * (pytest --headswap-zoo=testzoo*), which started *, "
    "is writing its results there. Wait until it ends, or choose another folder with --headswap-report"
)
WAITING = """
import time
from pathlib import Path
HERE = Path(__file__).parent

def waiting(case):
    (HERE / ("waiting" + ".txt")).touch()
    while not (HERE / ("go" + " on")).exists():
        time.sleep(0.02)

def pytest_headswap_checks(config):
    return {"waiting": waiting}
"""


def _start(project: pytest.Pytester, *flags: str) -> subprocess.Popen[bytes]:
    """Return a run that waits in a check, in a group of its own."""
    command = [sys.executable, "-m", "pytest", ZOO, "--headswap-checks=output_shape,waiting", *flags]
    run = subprocess.Popen(command, cwd=project.path, stdin=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 120
    while not (project.path / "waiting.txt").exists():
        assert run.poll() is None, "the run has ended already"
        assert time.monotonic() < until
        time.sleep(0.05)
    return run


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "with-xdist"])
def test_a_second_run_in_the_folder_is_refused_and_the_first_loses_nothing(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, workers: tuple[str, ...]
) -> None:
    if workers:
        pytest.importorskip("xdist")
    extend_conftest(WAITING)
    first = _start(project, "--headswap-models=alpha", *workers)
    for flags in ((), ("--headswap-resume",)):
        second = project.runpytest_inprocess(ZOO, TWO, *flags)
        assert second.ret == pytest.ExitCode.USAGE_ERROR
        second.stderr.fnmatch_lines([IN_USE])
    assert project.runpytest_inprocess(ZOO, "--collect-only").ret == 0, "a listing writes nothing"
    elsewhere = project.runpytest_inprocess(ZOO, TWO, SOUND, "--headswap-report=elsewhere")
    assert elsewhere.ret == 0
    (project.path / "go on").touch()
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert list(journal()) == ["testzoo::alpha::output_shape", "testzoo::alpha::waiting"]
    assert "Nothing failed" in _summary(project)
    assert project.runpytest_inprocess(ZOO, TWO, SOUND).ret == 0, "the folder is free again"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_killed_run_frees_its_folder_and_can_be_resumed(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(WAITING)
    first = _start(project, "--headswap-models=alpha")
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert (project.path / "headswap-report" / "results.lock").exists()
    (project.path / "go on").touch()
    flags = (ZOO, "--headswap-checks=output_shape,waiting", "--headswap-models=alpha", "--headswap-resume")
    result = project.runpytest_inprocess(*flags)
    result.assert_outcomes(passed=1, deselected=1)
    assert result.ret == 0
    assert len(journal()) == 2
    assert not (project.path / "headswap-report" / "results.lock").exists()


def test_a_merge_into_the_folder_of_a_running_run_is_refused(project: pytest.Pytester) -> None:
    for shard in ("1/2", "2/2"):
        project.runpytest_inprocess(ZOO, TWO, SOUND, f"--headswap-shard={shard}", f"--headswap-report={shard[0]}")
    lock = FolderLock(project.path / "whole", "pytest --headswap-zoo=timm")
    merge = [*COMMAND, "merge", "whole", "1", "2"]
    done = project.run(*merge)
    assert done.ret == 1
    done.stderr.fnmatch_lines(["headswap: the report folder whole is in use: process * (pytest --headswap-zoo=timm)*"])
    lock.release()
    assert project.run(*merge).ret == 0


def test_a_run_without_checks_leaves_the_journal_alone(project: pytest.Pytester, journal: Journal) -> None:
    project.runpytest_inprocess(ZOO, TWO, SOUND)
    for flag in ("--collect-only", "--setup-plan", "--setup-only"):
        assert project.runpytest_inprocess(ZOO, TWO, SOUND, flag).ret == 0
        assert len(journal()) == 4
