"""A run exports its journal as CTRF JSON and as annotations of GitHub, with the results that it took from before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SMALL = ("testzoo::alpha", "testzoo::raising", "--headswap-checks=metadata,state_dict")


def _tests(path: Path) -> list[tuple[str, str]]:
    data: Any = json.loads(path.read_text(encoding="utf-8"))
    return sorted((test["name"], test["status"]) for test in data["results"]["tests"])


EXPECTED = [
    ("testzoo::alpha::metadata", "passed"),
    ("testzoo::alpha::state_dict", "passed"),
    ("testzoo::raising::metadata", "failed"),
    ("testzoo::raising::state_dict", "failed"),
]


def test_a_run_writes_the_file_and_prints_annotations(project: pytest.Pytester) -> None:
    run = project.runpytest_inprocess(*SMALL, "--headswap-ctrf=out/ctrf.json", "--headswap-annotations=github")
    assert _tests(project.path / "out" / "ctrf.json") == EXPECTED
    run.stdout.fnmatch_lines([f"ctrf: {project.path / 'out' / 'ctrf.json'}"])
    (line,) = (line for line in run.outlines if line.startswith("::"))
    assert line.startswith("::error file=conftest.py,line=")
    assert "title=testzoo%3A%3Araising%3A error (all 2 checks)::" in line


def test_a_resumed_run_exports_all_results(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(*SMALL, "-x")
    project.runpytest_inprocess(*SMALL, "--headswap-resume", "--headswap-ctrf=ctrf.json")
    assert _tests(project.path / "ctrf.json") == EXPECTED


def test_ini_keys_are_relative_to_the_root_folder_and_auto_needs_github(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makeini("[pytest]\nheadswap_ctrf = reports/ctrf.json\nheadswap_annotations = auto\n")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    outside = project.runpytest_inprocess(*SMALL)
    assert _tests(project.path / "reports" / "ctrf.json") == EXPECTED
    assert not [line for line in outside.outlines if line.startswith("::")]
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert [line for line in project.runpytest_inprocess(*SMALL).outlines if line.startswith("::error")]


@pytest.mark.slow
def test_a_run_with_workers_exports_once(project: pytest.Pytester) -> None:
    run = project.runpytest_subprocess(*SMALL, "-n2", "--headswap-ctrf=ctrf.json", "--headswap-annotations=github")
    assert _tests(project.path / "ctrf.json") == EXPECTED
    assert len([line for line in run.outlines if line.startswith("::")]) == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--headswap-annotations=gitlab", "--headswap-annotations must be one of github, auto, none, not 'gitlab'"),
        ("--headswap-ctrf=.", "--headswap-ctrf=. is a folder: name a file, such as ctrf.json"),
    ],
)
def test_an_invalid_export_is_a_usage_error(project: pytest.Pytester, option: str, message: str) -> None:
    run = project.runpytest_inprocess(*SMALL, option)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines([f"*{message}*"])


def test_a_file_that_cannot_be_written_is_a_warning(project: pytest.Pytester) -> None:
    (project.path / "taken").write_text("", encoding="utf-8")
    run = project.runpytest_inprocess("testzoo::alpha::metadata", "--headswap-ctrf=taken/ctrf.json")
    assert run.ret == pytest.ExitCode.OK
    run.stdout.fnmatch_lines(["warning: the results were not exported: cannot write *"])
