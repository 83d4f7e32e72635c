"""Run `headswap expectations --check`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pytest_headswap.cli.console import fail

if TYPE_CHECKING:
    from pytest_headswap.expectations.toml_document import Document


def add_expectations_command(commands: Any) -> None:
    """Declare the command that validates expectations files."""
    parser = commands.add_parser("expectations", help="validate expectations files without building a model")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="expectations file, or a folder of them")
    parser.add_argument("--check", action="store_true", required=True, help="report what is invalid or has ended")
    parser.set_defaults(run=_expectations)


def _expectations(arguments: argparse.Namespace) -> int:
    from pytest_headswap._text import pluralize

    code = 0
    for path in _files(arguments.files):
        problems, notes, count = _check(path)
        for note in notes:
            print(note)
        if problems:
            code = fail(1, *problems)
        else:
            print(f"{path}: {pluralize(count, 'entry', 'entries')}, valid")
    return code


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.glob("*.toml")) or [path] if path.is_dir() else [path]


def _check(path: Path) -> tuple[list[str], list[str], int]:
    """Return the problems of a file, the notes about it, and the number of its entries."""
    from pytest_headswap.expectations.condition import ConditionError, Environment, evaluate
    from pytest_headswap.expectations.files import require_known_zoo
    from pytest_headswap.expectations.toml_document import DocumentError, parse_document
    from pytest_headswap.zoo import zoo_names

    try:
        document = parse_document(path.read_text(encoding="utf-8"), path, unquote(path.stem))
        if ":" not in document.zoo:
            require_known_zoo([document], dict.fromkeys(zoo_names()))
    except (OSError, UnicodeDecodeError) as error:
        return [f"cannot read {path}: {error}"], [], 0
    except DocumentError as error:
        return [str(error)], [], 0
    problems: list[str] = []
    notes: list[str] = []
    for entry in document.entries:
        try:
            evaluate(entry.when, Environment())
            if entry.until is not None and entry.until.has_ended(Environment()):
                notes.append(f"{entry.where}: ended {entry.until}")
        except ConditionError as error:
            problems.append(f"{entry.where}: {error}")
        if entry.is_todo:
            notes.append(f"{entry.where}: the reason is still to be written")
    if not problems:
        problems, about_models = _check_models(document)
        notes += about_models
    return problems, notes, len(document.entries)


def _check_models(document: Document) -> tuple[list[str], list[str]]:
    """Return the problems with models and checks, and a note for each zoo that cannot be loaded."""
    from pytest_headswap._check_names import CHECK_NAMES, OPT_IN_CHECK_NAMES
    from pytest_headswap.expectations.condition import Environment
    from pytest_headswap.expectations.matcher import ConflictError
    from pytest_headswap.expectations.update import RunScope
    from pytest_headswap.zoo import ZooError, load_zoo

    problems, notes = [], []
    for name in dict.fromkeys(entry.zoo for entry in document.entries):
        try:
            zoo = load_zoo(name)
        except ZooError as error:
            notes.append(f"{document.path}: the models of zoo {name!r} are not checked: {error}")
            continue
        try:
            environment = Environment(versions=zoo.versions)
            matcher = RunScope({name: zoo.names}, (*CHECK_NAMES, *OPT_IN_CHECK_NAMES), environment).matcher([document])
        except ConflictError as error:
            problems.append(str(error))
            continue
        problems += [
            f"{item.entry.where}: no model of zoo {name!r} matches {', '.join(item.entry.models)}"
            for item in matcher.entries
            if not item.models
        ]
        notes += [
            f"{item.entry.where}: no built-in check matches {', '.join(item.entry.checks)}"
            for item in matcher.entries
            if not item.checks
        ]
    return problems, notes
