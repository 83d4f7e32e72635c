"""What a run found, and the file it is kept in. Imports no torch."""

from __future__ import annotations

from pytest_headswap.report.journal import JOURNAL_NAME, JournalError, JournalHeader, JournalWriter, read_journal
from pytest_headswap.report.result import OUTCOMES, Outcome, Result

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
