"""A writer keeps its results if its file is deleted, replaced or changed, and reports it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_headswap.results import JournalError, JournalHeader, JournalWriter, read_journal
from pytest_headswap.results.lock import LOCK_NAME, FolderLock
from tests.journals import result

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows can neither delete nor replace an open file")

HEADER = JournalHeader({"torch": "2.9"}, {"checks": ["output_shape"]})


def _models(path: Path) -> list[str]:
    return [item.model for item in read_journal(path)[1]]


def _unlink(folder: Path) -> None:
    (folder / "results.jsonl").unlink()


def _rename_away(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


@pytest.mark.parametrize("delete", [_unlink, shutil.rmtree, _rename_away])
@pytest.mark.parametrize("after_last", [False, True], ids=["between-results", "after-the-last"])
def test_a_deleted_journal_is_restored_with_all_results(
    tmp_path: Path, delete: Callable[[Path], None], after_last: bool
) -> None:
    folder = tmp_path / "report"
    writer = JournalWriter(folder, HEADER, [result("taken")])
    writer.write(result("a"))
    if after_last:
        writer.write(result("b"))
    delete(folder)
    if not after_last:
        writer.write(result("b"))
    writer.close()
    assert read_journal(folder)[0].versions == {"torch": "2.9"}
    assert _models(folder) == ["taken", "a", "b"]
    count = 3 if after_last else 2
    assert writer.notices == [
        f"{folder / 'results.jsonl'} was deleted during the run. It was written again, with {count} results so far"
    ]
    assert not writer.displaced
    assert [path.name for path in folder.iterdir()] == ["results.jsonl"], "no lock and no other file is left"


def test_a_folder_that_is_deleted_repeatedly_loses_no_result(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    with JournalWriter(folder, HEADER) as writer:
        for name in "abc":
            writer.write(result(name))
            shutil.rmtree(folder)
    assert _models(folder) == ["a", "b", "c"]
    assert len(writer.notices) == 3


def _replace(folder: Path) -> None:
    (folder / "new").write_text("of somebody else\n")
    (folder / "new").rename(folder / "results.jsonl")


def _another_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "results.jsonl").write_text("of somebody else\n")


@pytest.mark.parametrize("replace", [_replace, _another_folder])
@pytest.mark.parametrize("after_last", [False, True], ids=["between-results", "after-the-last"])
def test_a_file_that_replaces_the_journal_is_kept_and_the_results_go_to_another_file(
    tmp_path: Path, replace: Callable[[Path], None], after_last: bool
) -> None:
    folder = tmp_path / "report"
    writer = JournalWriter(folder, HEADER)
    writer.write(result("a"))
    if after_last:
        writer.write(result("b"))
    replace(folder)
    if not after_last:
        writer.write(result("b"))
    writer.close()
    assert (folder / "results.jsonl").read_text() == "of somebody else\n"
    assert writer.displaced
    assert writer.path.parent == folder
    assert writer.path.name != "results.jsonl"
    assert _models(writer.path) == ["a", "b"]
    (notice,) = writer.notices
    assert notice.startswith(f"another program replaced {folder / 'results.jsonl'} during the run. ")
    assert notice.endswith(f" are in {writer.path}")


def _truncate(path: Path) -> None:
    path.write_bytes(b"")


def _overwrite(path: Path) -> None:
    path.write_text("of somebody else\n" * 100)


def _append(path: Path) -> None:
    with path.open("a") as file:
        file.write("of somebody else\n")


@pytest.mark.parametrize("spoil", [_truncate, _overwrite, _append])
@pytest.mark.parametrize("after_last", [False, True], ids=["between-results", "after-the-last"])
def test_writes_of_another_program_to_the_journal_are_an_error(
    tmp_path: Path, spoil: Callable[[Path], None], after_last: bool
) -> None:
    writer = JournalWriter(tmp_path, HEADER)
    writer.write(result("a"))
    spoil(writer.path)
    if not after_last:
        with pytest.raises(JournalError, match=r"another program wrote to .*results.jsonl.* the 1 result so far"):
            writer.write(result("b"))
    with pytest.raises(JournalError, match="another program wrote to"):
        writer.close()
    writer.close()
    FolderLock(tmp_path).release()


def test_a_deleted_folder_that_another_run_has_locked_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    writer = JournalWriter(folder, HEADER)
    writer.write(result("a"))
    shutil.rmtree(folder)
    other = FolderLock(folder, "pytest other")
    with pytest.raises(JournalError, match=r"was deleted during the run, and the report folder .* is in use"):
        writer.write(result("b"))
    other.release()
    writer.close()
    assert _models(folder) == ["a"], "written again once the folder is free"


def test_a_journal_has_one_writer_at_a_time(tmp_path: Path) -> None:
    with JournalWriter(tmp_path, HEADER) as writer:
        writer.write(result("a"))
        with pytest.raises(JournalError, match="is in use: process"):
            JournalWriter(tmp_path, HEADER)
        assert (tmp_path / LOCK_NAME).exists()
    assert _models(tmp_path) == ["a"]
    assert not (tmp_path / LOCK_NAME).exists()


def test_a_journal_that_cannot_be_written_is_an_error_that_releases_the_folder(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(JournalError, match=r"cannot write the report to .*Choose a folder that can be written"):
        JournalWriter(tmp_path, HEADER)
    FolderLock(tmp_path, "pytest").release()


def test_a_lock_that_is_passed_in_is_taken_again_with_its_folder(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "report")
    writer = JournalWriter(lock.folder, HEADER, lock=lock)
    shutil.rmtree(lock.folder)
    writer.write(result("net"))
    assert lock.held
    writer.close()
    lock.release()
