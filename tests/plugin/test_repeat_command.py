"""A repro command writes to its own report folder, never to that of the run it was copied from."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_headswap.results import Result

Journal = Callable[..., dict[str, Result]]

ZOO = "--headswap-zoo=testzoo"
TWO = "--headswap-checks=output_shape,native_parity"


@pytest.mark.parametrize("own", ["", "mine", "headswap-repeat", "headswap-repeat-2", "deep/headswap-repeat"])
def test_a_repro_command_keeps_the_report_it_was_copied_from(
    project: pytest.Pytester, journal: Journal, own: str
) -> None:
    flags = [f"--headswap-report={own}"] if own else []
    whole = project.runpytest_inprocess(ZOO, TWO, *flags)
    folder = own or "headswap-report"
    before = {path: path.read_bytes() for path in (project.path / folder).rglob("*") if path.is_file()}
    lines = [line.partition("Repeat with: ")[2] for line in whole.stdout.lines if line.startswith("Repeat with: ")]
    lines += [line.strip() for line in whole.stdout.lines if line.startswith("          pytest --headswap-zoo")]
    assert len(lines) > 3
    for line in dict.fromkeys(lines):
        program, *arguments = shlex.split(line)
        assert program == "pytest"
        repeated = project.runpytest_inprocess(*arguments)
        again = [line.partition("Repeat with: ")[2] for line in repeated.stdout.lines if "Repeat with: " in line]
        assert len(journal(arguments[3].partition("=")[2])) == 1
        for second in again:
            project.runpytest_inprocess(*shlex.split(second)[1:])
    after = {path: path.read_bytes() for path in (project.path / folder).rglob("*") if path.is_file()}
    assert after == before
    assert len(journal(folder)) == 16


@pytest.mark.parametrize("how", ["headswap_report = mine", "addopts = --headswap-report=mine"])
def test_a_repro_command_does_not_use_the_report_folder_of_the_ini_file(
    project: pytest.Pytester, journal: Journal, how: str
) -> None:
    project.makeini(f"[pytest]\n{how}\n")
    project.runpytest_inprocess(ZOO, TWO, "--headswap-models=alpha,mismatched")
    item = journal("mine")["testzoo::mismatched::native_parity"]
    project.runpytest_inprocess(*shlex.split(item.repro)[1:])
    assert len(journal("mine")) == 4
    assert list(journal("headswap-repeat")) == ["testzoo::mismatched::native_parity"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_to_the_folder_of_repro_commands_is_resolved(project: pytest.Pytester, journal: Journal) -> None:
    (project.path / "headswap-repeat").mkdir()
    Path(project.path / "mine").symlink_to(project.path / "headswap-repeat")
    project.runpytest_inprocess(ZOO, TWO, "--headswap-models=mismatched", "--headswap-report=mine")
    item = journal("mine")["testzoo::mismatched::native_parity"]
    project.runpytest_inprocess(*shlex.split(item.repro)[1:])
    assert len(journal("mine")) == 2
