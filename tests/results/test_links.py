"""Nothing outside a report folder is read, written or deleted through a symbolic link in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_headswap.cli.main import main
from pytest_headswap.report.html import PAGES
from pytest_headswap.report.write import write_reports
from pytest_headswap.results import JOURNAL_NAME, JournalError, JournalHeader, JournalWriter, Result, read_journal
from pytest_headswap.results.lock import LOCK_NAME

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links and FIFOs")

RESULT = Result("zoo", "model", "check", "passed", evidence="abstract")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a report folder with a journal."""
    path = tmp_path / "report"
    _write_journal(path)
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Create a folder with a file that must stay."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "precious").write_text("precious")
    return path


def _write_journal(folder: Path) -> None:
    with JournalWriter(folder, JournalHeader()) as journal:
        journal.write(RESULT)


@pytest.mark.parametrize("name", ["index.html", "report.css", "summary.md"])
def test_a_report_file_that_is_a_link_is_replaced(folder: Path, outside: Path, name: str) -> None:
    (folder / name).symlink_to(outside / "precious")
    write_reports(folder, folder)
    assert (outside / "precious").read_text() == "precious"
    assert not (folder / name).is_symlink()


def test_a_folder_of_pages_that_is_a_link_is_replaced(folder: Path, outside: Path) -> None:
    page = outside / "model-0123456789ab.html"
    page.write_text("a page of another report")
    (folder / PAGES).symlink_to(outside)
    write_reports(folder, folder)
    assert sorted(path.name for path in outside.iterdir()) == [page.name, "precious"]
    assert not (folder / PAGES).is_symlink()
    assert list((folder / PAGES).iterdir())


def test_a_page_that_is_a_link_is_replaced(folder: Path, outside: Path) -> None:
    write_reports(folder, folder)
    (page,) = (folder / PAGES).iterdir()
    page.unlink()
    page.symlink_to(outside / "precious")
    (folder / PAGES / "model-0123456789ab.html").symlink_to(outside / "precious")
    write_reports(folder, folder)
    assert (outside / "precious").read_text() == "precious"
    assert [path.is_symlink() for path in (folder / PAGES).iterdir()] == [False]


@pytest.mark.parametrize("name", [JOURNAL_NAME, f"{JOURNAL_NAME}.new"])
def test_a_journal_is_not_written_through_a_link(folder: Path, outside: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside / "precious")
    _write_journal(folder)
    assert (outside / "precious").read_text() == "precious"
    assert read_journal(folder)[1] == [RESULT]


def test_a_lock_is_not_written_through_a_link(folder: Path, outside: Path) -> None:
    (folder / LOCK_NAME).symlink_to(outside / "precious")
    with pytest.raises(JournalError, match=r"cannot write the report to .*symbolic link"):
        _write_journal(folder)
    assert (outside / "precious").read_text() == "precious"


def test_a_journal_that_is_a_link_out_of_its_folder_is_not_read(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / JOURNAL_NAME).symlink_to(folder / JOURNAL_NAME)
    with pytest.raises(JournalError, match=rf"is a symbolic link out of the report folder: pass {folder}"):
        read_journal(other)
    assert read_journal(other / JOURNAL_NAME)[1] == [RESULT], "a file that is given by name may be a link"


def test_a_link_inside_the_folder_and_a_folder_that_is_a_link_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / JOURNAL_NAME).rename(folder / "first.jsonl")
    (folder / JOURNAL_NAME).symlink_to("first.jsonl")
    (tmp_path / "link").symlink_to(folder)
    assert read_journal(tmp_path / "link")[1] == [RESULT]


def _zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


ABSURD = {
    "a folder": (Path.mkdir, "is not a regular file"),
    "a FIFO": (os.mkfifo, "is not a regular file"),
    "an endless device": (_zero, "is a symbolic link out of the report folder"),
    "a loop": (_loop, "cannot read the journal .*symbolic links"),
}


@pytest.mark.parametrize("make", ABSURD.values(), ids=ABSURD)
@pytest.mark.parametrize("command", ["report", "merge", "compare"])
def test_what_is_no_file_is_a_one_line_error(
    folder: Path,
    tmp_path: Path,
    make: tuple[Callable[[Path], object], str],
    command: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    absurd = tmp_path / "absurd"
    absurd.mkdir()
    make[0](absurd / JOURNAL_NAME)
    arguments = {"report": [absurd], "merge": [tmp_path / "out", absurd, folder], "compare": [folder, absurd]}
    assert main([command, *map(str, arguments[command])]) in (1, 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(JournalError, match=make[1]):
        read_journal(absurd)


def test_an_endless_device_that_is_given_by_name_is_refused() -> None:
    with pytest.raises(JournalError, match="/dev/zero is not a headswap journal: it is not a regular file"):
        read_journal("/dev/zero")
