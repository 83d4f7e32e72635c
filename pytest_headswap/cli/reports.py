"""Run the commands that read journals: `headswap report`, `headswap merge` and `headswap compare`."""

from __future__ import annotations

import argparse
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_headswap.cli.console import fail
from pytest_headswap.results import JOURNAL_NAME, JournalError
from pytest_headswap.results.compare import THRESHOLD


def add_report_commands(commands: Any) -> None:
    """Declare the commands that read journals."""
    report = commands.add_parser("report", help="write the HTML and Markdown reports of a journal")
    report.add_argument("journal", type=Path, metavar="DIR", help="report folder or journal")
    report.add_argument("--output", type=Path, metavar="FOLDER", help="output folder (default: that of the journal)")
    report.add_argument("--ctrf", type=Path, metavar="FILE", help="also write the results as CTRF JSON")
    report.add_argument("--annotations", action="store_true", help="also print failures as annotations of GitHub")
    report.set_defaults(run=_report)

    merge = commands.add_parser("merge", help="merge the journals of all shards, or of runs with different versions")
    merge.add_argument("out", type=Path, metavar="OUT", help="folder for the merged journal")
    merge.add_argument("journals", type=Path, nargs="+", metavar="DIR", help="report folder of each shard or run")
    merge.add_argument(
        "--by-version-of",
        metavar="NAME",
        default="",
        help="distribution whose version distinguishes the runs, such as torch",
    )
    merge.add_argument(
        "--allow-missing", action="store_true", help="merge an incomplete set of shards, and report what is missing"
    )
    merge.add_argument(
        "--missing",
        action="store_true",
        help="merge nothing; print the command for each shard that is missing or incomplete, and exit with 1 if any is",
    )
    merge.set_defaults(run=_merge)

    compare = commands.add_parser(
        "compare", help="show what broke, was fixed, or became slower or larger between two runs"
    )
    compare.add_argument("old", type=Path, metavar="OLD", help="report folder or journal of the earlier run")
    compare.add_argument("new", type=Path, metavar="NEW", help="report folder or journal of the later run")
    compare.add_argument(
        "--strict", action="store_true", help="also exit with 1 if models are slower or larger, or results are removed"
    )
    compare.add_argument(
        "--threshold",
        type=_parse_threshold,
        default=THRESHOLD,
        metavar="RATIO",
        help="factor by which time or memory must grow to count (default: %(default)g)",
    )
    compare.add_argument(
        "--comment", action="store_true", help="print only what broke, was fixed or changed, as a comment on GitHub"
    )
    compare.add_argument("--html", type=Path, metavar="FILE", help="also write the comparison as a page")
    compare.set_defaults(run=_compare)

    history = commands.add_parser("history", help="show outcomes and cost over several runs, and the first bad ones")
    history.add_argument("journals", type=Path, nargs="+", metavar="DIR", help="report folder or journal of each run")
    history.add_argument("--keep-order", action="store_true", help="keep the order given (default: by date)")
    history.add_argument("--html", type=Path, metavar="FILE", help="also write the history as a page")
    history.set_defaults(run=_history)


def _parse_threshold(text: str) -> float:
    with suppress(ValueError):
        if 1 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")


def _report(arguments: argparse.Namespace) -> int:
    from pytest_headswap._text import escape_unprintable, pluralize
    from pytest_headswap.report.annotations import github_annotations
    from pytest_headswap.report.ctrf import ctrf_json
    from pytest_headswap.report.output_file import write_output
    from pytest_headswap.report.write import reports_of
    from pytest_headswap.results.run import read_run

    try:
        run = read_run(arguments.journal)
        reports = reports_of(run.header, run.results, arguments.output or run.folder)
        if arguments.ctrf is not None:
            write_output(arguments.ctrf, ctrf_json(run))
    except JournalError as error:
        return fail(1, str(error))
    print(f"{reports.html}: {pluralize(len(reports.matrix.rows), 'architecture')}")
    print(reports.markdown)
    for sentence in reports.matrix.missing:
        print(f"incomplete: {escape_unprintable(sentence)}")
    if arguments.ctrf is not None:
        print(arguments.ctrf)
    for line in github_annotations(reports.matrix) if arguments.annotations else ():
        print(line)
    return 0


def _journal(path: Path) -> str:
    return os.path.realpath(path if path.is_file() else path / JOURNAL_NAME)  # resolve() raises for a loop of links


def _merge(arguments: argparse.Namespace) -> int:
    from pytest_headswap._text import pluralize
    from pytest_headswap.report.write import write_reports
    from pytest_headswap.results.merge import merge
    from pytest_headswap.results.merge_versions import merge_versions
    from pytest_headswap.results.shard_journals import MergeError

    if _journal(arguments.out) in map(_journal, arguments.journals):
        return fail(2, f"{arguments.out} is one of the journals to merge: choose another output folder")
    if arguments.missing:
        return _print_missing(arguments.journals)
    try:
        if arguments.by_version_of:
            merged = merge_versions(arguments.journals, arguments.by_version_of, allow_missing=arguments.allow_missing)
        else:
            merged = merge(arguments.journals, allow_missing=arguments.allow_missing)
        path = merged.write(arguments.out)
        architectures = len(write_reports(path, arguments.out).matrix.rows)
    except MergeError as error:
        return fail(1, *error.problems)
    except JournalError as error:
        return fail(1, str(error))
    summary = f"{pluralize(merged.count, 'result')} of {pluralize(architectures, 'model')}"
    print(f"{path}: {summary}{', incomplete' if merged.missing else ''}")
    for sentence in merged.missing:
        print(f"  {sentence}")
    return 0


def _print_missing(journals: list[Path]) -> int:
    from pytest_headswap.cli.missing_shards import missing_command
    from pytest_headswap.results.merge import missing_parts
    from pytest_headswap.results.shard_journals import MergeError

    try:
        parts = missing_parts(journals)
    except MergeError as error:
        return fail(1, *error.problems)
    for part in parts:
        print(missing_command(part, journals))
    return 1 if parts else 0


def _compare(arguments: argparse.Namespace) -> int:
    from pytest_headswap.report.comparison import format_comment, format_markdown
    from pytest_headswap.report.comparison_page import write_comparison_page
    from pytest_headswap.results.compare import compare_runs
    from pytest_headswap.results.run import read_run

    try:
        old, new = read_run(arguments.old), read_run(arguments.new)
    except JournalError as error:
        return fail(2, str(error))
    comparison = compare_runs(old, new, arguments.threshold)
    if not comparison.shared:
        return fail(2, "the two runs have no results in common: there is nothing to compare")
    print(format_comment(comparison) if arguments.comment else format_markdown(comparison), end="")
    if arguments.html is not None:
        try:
            write_comparison_page(comparison, old, new, arguments.html)
        except JournalError as error:
            return fail(2, str(error))
    worse = comparison.slower or comparison.larger or comparison.removed
    return 1 if comparison.broken or (arguments.strict and worse) else 0


def _history(arguments: argparse.Namespace) -> int:
    from pytest_headswap.report.history import format_markdown
    from pytest_headswap.report.history_page import write_history_page
    from pytest_headswap.results.history import read_history

    try:
        history = read_history(arguments.journals, keep_order=arguments.keep_order)
        print(format_markdown(history), end="")
        if arguments.html is not None:
            write_history_page(history, arguments.html)
    except JournalError as error:
        return fail(1, *str(error).splitlines())
    return 0
