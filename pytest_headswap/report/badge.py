"""Draw a badge of a run: as SVG, or as JSON for the endpoint badge of shields.io."""

from __future__ import annotations

import json

from pytest_headswap._text import escape_unprintable, truncate
from pytest_headswap.report.html import _environment
from pytest_headswap.results.conformance import Conformance

LABEL = "headswap"
_MAX_CHARS = 80
_PADDING = 7

# name for shields.io, and a colour on which white text has a contrast of at least 5
_GREEN, _YELLOW, _RED, _GREY = (
    ("brightgreen", "#2e7d32"),
    ("yellow", "#8a6100"),
    ("red", "#b3261e"),
    ("grey", "#6b6b6b"),
)

# characters that are narrower or wider than others; `textLength` makes the text fit exactly
_NARROW, _WIDE = "iljtfrI.,:;|!'()/ ", "mwMW%@—"


def badge_svg(conformance: Conformance, label: str = LABEL) -> str:
    """Return the badge as SVG, with an accessible title."""
    _, colour = _colour(conformance)
    label, message = _shown(label), str(conformance)
    template = _environment().get_template("badge.svg.j2")
    text = template.render(
        label=label,
        message=message,
        title=f"{label}: {truncate(escape_unprintable(conformance.sentence), 600)}",
        colour=colour,
        label_width=_width(label),
        message_width=_width(message),
        padding=_PADDING,
    )
    return f"{text}\n"


def badge_json(conformance: Conformance, label: str = LABEL) -> str:
    """Return the badge as JSON for `https://img.shields.io/endpoint`."""
    name, _ = _colour(conformance)
    data = {"schemaVersion": 1, "label": _shown(label), "message": str(conformance), "color": name}
    return json.dumps(data, indent=2) + "\n"


def _shown(label: str) -> str:
    return truncate(escape_unprintable(label), _MAX_CHARS)


def _colour(conformance: Conformance) -> tuple[str, str]:
    if conformance.counts["bad"]:
        return _RED
    if conformance.is_clean:
        return _GREEN
    return _GREY if conformance.counts["skipped"] == conformance.counts.total() else _YELLOW


def _width(text: str) -> int:
    """Return the approximate width of a text, in pixels, at 11 pixels a line."""
    return round(sum(4 if char in _NARROW else 10 if char in _WIDE or ord(char) > 0x2FF else 7 for char in text))
