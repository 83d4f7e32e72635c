"""Write a page that is one file: with its style in it, it can be mailed, uploaded and linked on its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from pytest_headswap._links import page
from pytest_headswap._version import __version__
from pytest_headswap.report.html import INDEX, PAGES, _digest, _environment, _static
from pytest_headswap.report.output_file import write_output


def write_single_page(path: Path, template: str, context: Mapping[str, Any]) -> None:
    """Render a template into one file, and create its folder.

    Raises:
        JournalError: the file would replace a part of a report, or cannot be written.
    """
    style = _static("report.css") + _static("runs.css")
    scripts = {name: _static(f"{name}.js") for name in ("theme", "page")}
    common = {
        "made_with": __version__,
        "how_to_read": page("reports"),
        "scripts": {name: Markup(text) for name, text in scripts.items()},
        "digests": [_digest(text) for text in scripts.values()],
        "style": Markup(style),
        "style_digest": _digest(style),
    }
    text = _environment().get_template(template).render(common, **context)
    write_output(path, text)


def report_link(page_file: Path, report: Path, architecture: str = "") -> str:
    """Return the address of a report or of its page for an architecture, as seen from a page; "" if there is none."""
    target = report / PAGES / architecture if architecture else report / INDEX
    if not target.is_file():
        return ""
    try:
        relative = os.path.relpath(target.resolve(), page_file.resolve().parent)
    except ValueError:  # another drive of Windows
        return target.resolve().as_uri()
    return quote(relative.replace(os.sep, "/"))
