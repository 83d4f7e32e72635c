"""Show a comparison of two runs as a page, with links to their reports."""

from __future__ import annotations

from pathlib import Path

from pytest_headswap._text import file_name
from pytest_headswap.report.comparison import WORSE, ListedChange, change_lists, headline, statements
from pytest_headswap.report.single_page import report_link, write_single_page
from pytest_headswap.results.compare import Comparison
from pytest_headswap.results.run import Run

_MAX_LISTED = 500


def write_comparison_page(comparison: Comparison, old: Run, new: Run, path: Path) -> None:
    """Write the page.

    Raises:
        JournalError: the page cannot be written.
    """

    def link(line: ListedChange) -> str:
        architecture = file_name(line.zoo, line.model)
        return report_link(path, new.folder, architecture) or report_link(path, old.folder, architecture)

    context = {
        "runs": [("Before", old, report_link(path, old.folder)), ("After", new, report_link(path, new.folder))],
        "headline": headline(comparison),
        "statements": list(statements(comparison)),
        "lists": change_lists(comparison),
        "worse": WORSE,
        "link": link,
        "max_listed": _MAX_LISTED,
    }
    write_single_page(path, "comparison.html.j2", context)
