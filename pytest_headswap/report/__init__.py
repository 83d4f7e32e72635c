"""Build the reports of a run: HTML, Markdown and the terminal. Also exports the functions that read a journal."""

from __future__ import annotations

from pytest_headswap.results import JournalError, JournalHeader, Result, read_journal

__all__ = ["JournalError", "JournalHeader", "Result", "read_journal"]
