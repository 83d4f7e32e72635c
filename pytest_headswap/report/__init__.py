"""Reports of a run: HTML, Markdown and the terminal. What they are made from can be read here too."""

from __future__ import annotations

from pytest_headswap.results import JournalError, JournalHeader, Result, read_journal

__all__ = ["JournalError", "JournalHeader", "Result", "read_journal"]
