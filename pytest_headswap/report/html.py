"""Write the HTML report: the matrix and a page for each architecture. It needs neither a server nor network access.

    index.html, report.css, architectures/resnet18-0f5c1f1c9a3b.html ...

The pages contain escaped names and messages. The matrix page contains them as data, which its script inserts only as
text. The content security policy of the pages allows only the shipped scripts, by their digests.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pytest_headswap._links import page
from pytest_headswap._text import error_page, escape_unprintable, file_name, format_duration, pluralize, truncate
from pytest_headswap._version import __version__
from pytest_headswap.report.architecture_page import anchor, architecture_pages, check_url, column_anchors
from pytest_headswap.report.matrix_data import SYMBOLS, evidence_letter, matrix_data, script_safe
from pytest_headswap.report.scope import facts, readable_date, zoo_names
from pytest_headswap.results.causes import find_causes
from pytest_headswap.results.matrix import Matrix, Row
from pytest_headswap.results.result import BY_SEVERITY

INDEX = "index.html"
PAGES = "architectures"
MAX_PAGES = 5_000
"""A report of more architectures has pages for so many of those with something to say, worst first."""

_STYLE = "report.css"
_PACKAGE = re.compile(r".*-[0-9a-f]{12}\.html")
_MAX_CAUSES = 100

MEANINGS = {
    "passed": "the check found no fault",
    "failed": "the check found a fault",
    "error": "the model could not be built, swapped or run",
    "crashed": "the process died",
    "timeout": "the model exceeded its time limit",
    "skipped": "the check does not apply",
    "xfailed": "the check failed as expected",
    "xpassed": "the check passed but was expected to fail",
}
EVIDENCE_LETTERS = {
    "a": "abstract evidence: shapes, without values",
    "s": "a simulated device",
    "d": "a real device, named in the result",
}


def write_html(matrix: Matrix, folder: Path) -> Path:
    """Write the pages into a folder and delete those of an earlier report. Return the path of the matrix page."""
    environment = _environment()
    pages = folder / PAGES
    if pages.is_symlink():  # never write or delete elsewhere
        pages.unlink()
    pages.mkdir(parents=True, exist_ok=True)
    old = {path.name for path in pages.iterdir() if _PACKAGE.fullmatch(path.name)}
    _write(folder / _STYLE, _static(_STYLE))
    common = _common(matrix)
    rows = rows_with_pages(matrix)
    names = {row.file_name for row in rows}
    template = environment.get_template("architecture.html.j2")
    for item in architecture_pages(rows, [row for row in matrix.worst_first if row.file_name in names]):
        _write(pages / item.row.file_name, template.render(common, root="../", page=item, row=item.row))
    for name in old - names:
        (pages / name).unlink()
    index = folder / INDEX
    causes = find_causes(result for row in matrix.rows for result in row.results)
    listed = causes[:_MAX_CAUSES]
    data = Markup(script_safe(matrix_data(matrix, listed, names, column_anchors(matrix))))
    context = {
        "data": data,
        "bad_causes": [cause for cause in listed if cause.needs_attention],
        "other_causes": [cause for cause in listed if not cause.needs_attention],
        "more_causes": len(causes) - len(listed),
        "page_names": names,
        "letters": {evidence_letter(item) for item in _evidence(matrix)},
    }
    _write(index, environment.get_template("index.html.j2").render(common, root="", **context))
    return index


def rows_with_pages(matrix: Matrix) -> list[Row]:
    """Return the rows that get a page: all, or in a large report those with something to say."""
    if len(matrix.rows) <= MAX_PAGES:
        return list(matrix.rows)
    bad = matrix.worst_first[:MAX_PAGES]
    notable = (row for row in matrix.rows if not row.failures and any(item.full_message for item in row.results))
    chosen = {id(row) for row in [*bad, *list(notable)[: MAX_PAGES - len(bad)]]}
    return [row for row in matrix.rows if id(row) in chosen]


def _evidence(matrix: Matrix) -> set[str]:
    return {result.evidence for row in matrix.rows for result in row.results}


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # some file systems flush overwritten files at once: seconds for 1,000 pages
    # other texts were escaped before; repro commands were not, because escaping would change the command
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pytest_headswap.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        escape_unprintable=escape_unprintable,
        lines=lambda text: escape_unprintable(text, keep_line_breaks=True),
        truncate=truncate,
        pluralize=pluralize,
        format_duration=format_duration,
        readable_date=readable_date,
        error_page=error_page,
        check_url=check_url,
        evidence_letter=evidence_letter,
        anchor=anchor,
        page_file=lambda result: file_name(result.zoo, result.model),
    )
    environment.globals.update(
        symbols=SYMBOLS, meanings=MEANINGS, evidence_letters=EVIDENCE_LETTERS, worst_first=BY_SEVERITY, id=id
    )
    return environment


def _common(matrix: Matrix) -> Mapping[str, Any]:
    scripts = {name: _static(f"{name}.js") for name in ("theme", "page", "parts", "view", "matrix")}
    return {
        "matrix": matrix,
        "header": matrix.header,
        "facts": facts(matrix),
        "zoos": zoo_names(matrix),
        "made_with": __version__,
        "how_to_read": page("reports"),
        "scripts": {name: Markup(text) for name, text in scripts.items()},
        "digests": [_digest(text) for text in scripts.values()],
        "pages": PAGES,
    }


def _static(name: str) -> str:
    return (files("pytest_headswap.report") / "static" / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
