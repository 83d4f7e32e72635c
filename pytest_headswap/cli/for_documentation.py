"""Run the commands that make what a library shows of a run: `headswap badge` and `headswap table`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pytest_headswap.cli.console import fail
from pytest_headswap.results import JournalError


def add_documentation_commands(commands: Any) -> None:
    """Declare the commands."""
    badge = commands.add_parser("badge", help="draw a badge: how many architectures of a run conform")
    badge.add_argument("journal", type=Path, metavar="DIR", help="report folder or journal")
    badge.add_argument("--format", choices=("svg", "json"), default="svg", help="json is for shields.io (default: svg)")
    badge.add_argument("--label", default="headswap", help="text at the left (default: %(default)s)")
    badge.add_argument("--output", type=Path, metavar="FILE", help="output file (default: print it)")
    badge.set_defaults(run=_badge)

    table = commands.add_parser("table", help="print the results of a run as a table for a library's documentation")
    table.add_argument("journal", type=Path, metavar="DIR", help="report folder or journal")
    table.add_argument("--format", choices=("md", "rst"), default="md", help="markup (default: %(default)s)")
    table.add_argument(
        "--by",
        choices=("architecture", "family"),
        default="architecture",
        help="what each line is (default: %(default)s)",
    )
    table.add_argument("--links", metavar="URL", default="", help="address of the HTML report, for links to its pages")
    table.add_argument("--output", type=Path, metavar="FILE", help="output file (default: print it)")
    table.set_defaults(run=_table)


def _badge(arguments: argparse.Namespace) -> int:
    from pytest_headswap.report.badge import badge_json, badge_svg
    from pytest_headswap.results.conformance import count_conforming
    from pytest_headswap.results.run import read_run

    try:
        conformance = count_conforming(read_run(arguments.journal, needs_results=True))
    except JournalError as error:
        return fail(1, str(error))
    text = (badge_json if arguments.format == "json" else badge_svg)(conformance, arguments.label)
    return _print(text, arguments.output)


def _table(arguments: argparse.Namespace) -> int:
    from pytest_headswap.report.documentation_table import format_table
    from pytest_headswap.results.run import read_run

    if arguments.links and arguments.by == "family":
        return fail(2, "--links has no effect with --by=family, whose lines have no pages: leave it out")
    try:
        run = read_run(arguments.journal, needs_results=True)
    except JournalError as error:
        return fail(1, str(error))
    return _print(format_table(run, arguments.format, arguments.by, arguments.links), arguments.output)


def _print(text: str, output: Path | None) -> int:
    """Print a text, or write it to a file."""
    from pytest_headswap.report.output_file import write_output

    if output is None:
        print(text, end="")
        return 0
    try:
        write_output(output, text)
    except JournalError as error:
        return fail(1, str(error))
    return 0
