"""What a run found, and the file it is kept in. Imports no torch."""

from __future__ import annotations

from pytest_headswap.report.journal import JOURNAL_NAME, JournalError, JournalHeader, read_journal
from pytest_headswap.report.result import OUTCOMES, Outcome, Result
from pytest_headswap.report.writer import JournalWriter

__all__ = [
    "JOURNAL_NAME",
    "OUTCOMES",
    "JournalError",
    "JournalHeader",
    "JournalWriter",
    "Outcome",
    "Result",
    "read_journal",
]
