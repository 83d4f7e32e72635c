"""The results of a run, and the journal that keeps them. Imports no torch."""

from __future__ import annotations

from pytest_headswap.results.journal import JOURNAL_NAME, JournalError, JournalHeader, changed_code, read_journal
from pytest_headswap.results.result import OUTCOMES, Outcome, Result
from pytest_headswap.results.writer import JournalWriter

__all__ = [
    "JOURNAL_NAME",
    "OUTCOMES",
    "JournalError",
    "JournalHeader",
    "JournalWriter",
    "Outcome",
    "Result",
    "changed_code",
    "read_journal",
]
