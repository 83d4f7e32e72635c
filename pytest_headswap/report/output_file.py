"""Write a file that a user names, without replacing a part of a report."""

from __future__ import annotations

from pathlib import Path

from pytest_headswap.report.html import INDEX, _write
from pytest_headswap.report.markdown import SUMMARY
from pytest_headswap.results.journal import JOURNAL_NAME, JournalError

_OF_A_REPORT = (JOURNAL_NAME, INDEX, SUMMARY)


def write_output(path: Path, text: str) -> None:
    """Write a file, and create its folder.

    Raises:
        JournalError: the file would replace a part of a report, or cannot be written.
    """
    if path.name in _OF_A_REPORT and (path.parent / JOURNAL_NAME).exists():
        raise JournalError(f"{path} is part of a report: choose another file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, text)
    except OSError as error:
        raise JournalError(f"cannot write {path}: {error.strerror or error}. Choose another file") from error
