"""Print what needs attention as annotations of GitHub, which shows them on the run and in the changed files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_headswap._text import escape_unprintable, pluralize, truncate
from pytest_headswap.report.markdown import worst_checks
from pytest_headswap.results.ids import model_id
from pytest_headswap.results.matrix import Matrix, Row

MAX_ERRORS = 10
"""The number of errors that GitHub shows for one step; it drops the rest without a word."""

_TITLE, _MESSAGE = 200, 2000
_FRAME = re.compile(r'^\s*File "(.+)", line (\d+)', re.MULTILINE)
_INSTALLED = frozenset(("site-packages", "dist-packages"))


def github_annotations(matrix: Matrix, environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield an error for each of the worst architectures, then a warning about what is left out or missing.

    An error is at the innermost frame of the traceback that lies in the repository; a fault that a check found has no
    traceback.
    """
    repository = Path(environment.get("GITHUB_WORKSPACE") or Path.cwd())
    rows = matrix.worst_first
    for row in rows[:MAX_ERRORS]:
        title = f"{model_id(row.zoo, row.model)}: {row.worst.outcome} ({worst_checks(row)})"
        repeat = f"\nRepeat with: {row.worst.repro}" if row.worst.repro else ""
        message = truncate(row.worst.full_message, _MESSAGE) or row.worst.outcome
        yield _command("error", {**_place(row, repository), "title": title}, f"{message}{repeat}")
    if len(rows) > MAX_ERRORS:
        left = pluralize(len(rows) - MAX_ERRORS, "more architecture")
        text = f"{left} of {len(rows):,} that need attention: the report lists all of them"
        yield _command("warning", {"title": "headswap"}, text)
    if matrix.missing:
        yield _command("warning", {"title": "headswap: incomplete"}, truncate("; ".join(matrix.missing), _MESSAGE))


def _place(row: Row, repository: Path) -> dict[str, str]:
    """Return the file and line of the innermost frame in the repository, as properties of an annotation."""
    for result in row.failures:
        for file, line in reversed(_FRAME.findall(result.traceback)):
            path = Path(file)
            if path.is_relative_to(repository) and _INSTALLED.isdisjoint(path.parts):
                return {"file": path.relative_to(repository).as_posix(), "line": line}
    return {}


def _command(name: str, properties: Mapping[str, str], message: str) -> str:
    """Return a workflow command, escaped as GitHub's toolkit does."""
    listed = ",".join(f"{key}={_escaped(value, in_property=True)}" for key, value in properties.items())
    return f"::{name} {listed}::{_escaped(message)}"


def _escaped(text: str, *, in_property: bool = False) -> str:
    text = escape_unprintable(truncate(text, _TITLE) if in_property else text, keep_line_breaks=True)
    text = text.replace("%", "%25").replace("\n", "%0A")  # other control characters are escaped
    return text.replace(":", "%3A").replace(",", "%2C") if in_property else text
