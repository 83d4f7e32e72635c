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
from pytest_headswap._text import error_page, escape_unprintable, format_duration, pluralize, truncate
from pytest_headswap._version import __version__
from pytest_headswap.report.diagram import head_diagram
from pytest_headswap.report.matrix_data import SYMBOLS, matrix_data, script_safe
from pytest_headswap.results.matrix import Matrix, Row
from pytest_headswap.results.result import BY_SEVERITY, Result

INDEX = "index.html"
PAGES = "architectures"
_STYLE = "report.css"
_PACKAGE = re.compile(r".*-[0-9a-f]{12}\.html")

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
    template = environment.get_template("architecture.html.j2")
    for number, row in enumerate(matrix.rows):
        near = [matrix.rows[other] if 0 <= other < len(matrix.rows) else None for other in (number - 1, number + 1)]
        context = {"row": row, "near": near, "diagrams": _diagrams(row), "results": _results(matrix, row)}
        _write(pages / row.file_name, template.render(common, root="../", **context))
    for name in old - {row.file_name for row in matrix.rows}:
        (pages / name).unlink()
    index = folder / INDEX
    data = Markup(script_safe(matrix_data(matrix)))
    _write(index, environment.get_template("index.html.j2").render(common, root="", data=data))
    return index


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
        error_page=error_page,
    )
    environment.globals.update(symbols=SYMBOLS, meanings=MEANINGS, worst_first=BY_SEVERITY)
    return environment


def _common(matrix: Matrix) -> Mapping[str, Any]:
    scripts = {name: _static(f"{name}.js") for name in ("theme", "page", "parts", "matrix")}
    return {
        "matrix": matrix,
        "header": matrix.header,
        "made_with": __version__,
        "how_to_read": page("reports"),
        "scripts": {name: Markup(text) for name, text in scripts.items()},
        "digests": [_digest(text) for text in scripts.values()],
        "pages": PAGES,
    }


def _diagrams(row: Row) -> list[Any]:
    return [head_diagram(head) for head in row.anatomy.heads] if row.anatomy is not None else []


def _results(matrix: Matrix, row: Row) -> list[tuple[Result, str]]:
    """Return the results of a page with their link ids, failed checks first. A cell links to its first result."""
    left = {column: f"c{number}" for number, column in enumerate(matrix.columns)}
    bad = {result.check for result in row.failures}
    ordered = sorted(row.results, key=lambda result: result.check not in bad)
    return [(result, left.pop(result.version if matrix.versions else result.check, "")) for result in ordered]


def _static(name: str) -> str:
    return (files("pytest_headswap.report") / "static" / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
