"""Read the data of a matrix page back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple


class Shown(NamedTuple):
    """One architecture as the matrix shows it. A cell without a result is 0."""

    name: str
    page: str
    cells: list[Any]


def data_of(index: Path) -> dict[str, Any]:
    """Return the data of a matrix page."""
    text = index.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def rows_of(data: dict[str, Any]) -> list[Shown]:
    """Return the architectures, in the order of the data."""
    rows = []
    for name, page, pattern in zip(data["names"], data["pages"], data["pattern"], strict=True):
        file = page if page.endswith(".html") or not page else f"{name}-{page}.html"
        rows.append(Shown(name, file, [data["cells"][cell] for cell in data["patterns"][pattern]]))
    return rows
