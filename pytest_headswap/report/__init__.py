"""Write the reports of a run as HTML, as Markdown and for the terminal. Also export what reads a journal."""

from __future__ import annotations

from pytest_headswap.results import JournalError, JournalHeader, Result, read_journal

__all__ = ["JournalError", "JournalHeader", "Result", "read_journal"]
