"""Write all reports of a journal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pytest_headswap.report.html import write_html
from pytest_headswap.report.markdown import write_markdown
from pytest_headswap.results.journal import JournalError, JournalHeader, read_journal
from pytest_headswap.results.matrix import Matrix, build_matrix
from pytest_headswap.results.result import Result


@dataclass(frozen=True)
class Reports:
    """The files written, and the matrix behind them."""

    matrix: Matrix
    html: Path
    markdown: Path


def write_reports(journal: Path, folder: Path) -> Reports:
    """Write the reports of a journal, given as a file or its folder, into another folder.

    Raises:
        JournalError: the journal cannot be read, or the reports cannot be written.
    """
    return reports_of(*read_journal(journal), folder)


def reports_of(header: JournalHeader, results: Iterable[Result], folder: Path) -> Reports:
    """Write the reports of a journal that was already read.

    Raises:
        JournalError: the reports cannot be written.
    """
    matrix = build_matrix(header, results)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Reports(matrix, write_html(matrix, folder), write_markdown(matrix, folder))
    except OSError as error:
        raise JournalError(
            f"cannot write the report to {folder}: {error.strerror or error}. Choose a folder that can be written"
        ) from error
