"""Lay out the path from backbone to output as a small picture. The template draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_headswap._text import escape_unprintable, truncate, truncate_left
from pytest_headswap.results.head_record import SwappedHead

WIDTH = 284
_FIRST, _HIGH, _GAP = 26, 40, 14
_NAME_FITS, _DETAIL_FITS = 36, 42


@dataclass(frozen=True)
class DiagramBox:
    """One step: its text, and the top and height of its box. `arrow`: whether an arrow leads down to it."""

    kind: str
    name: str
    detail: str
    full: str
    y: int
    height: int
    arrow: bool = True


@dataclass(frozen=True)
class HeadDiagram:
    """The boxes of one head, from top to bottom."""

    boxes: tuple[DiagramBox, ...]
    width: int
    height: int
    alt_text: str
    """The picture in words, for screen readers."""


def head_diagram(head: SwappedHead) -> HeadDiagram | None:
    """Return the picture of the path through a head; None if the journal does not hold the path."""
    if not head.path_to_output:
        return None
    boxes = [DiagramBox("backbone", "backbone", "", "all that comes before", 1, _FIRST, arrow=False)]
    y = 1 + _FIRST + _GAP
    for step in head.path_to_output:
        name = escape_unprintable(step.name) or "the model itself"
        detail = " · ".join(filter(None, (escape_unprintable(step.type), sizes(step.shape))))
        full = f"{step.kind}: {name}, {detail}" if detail else f"{step.kind}: {name}"
        label = truncate_left(name, _NAME_FITS)
        boxes.append(DiagramBox(step.kind, label, truncate(detail, _DETAIL_FITS), full, y, _HIGH))
        y += _HIGH + _GAP
    names = " to ".join(
        ["backbone", *(escape_unprintable(step.name) or "the model itself" for step in head.path_to_output)]
    )
    return HeadDiagram(tuple(boxes), WIDTH, y - _GAP + 1, names)


def sizes(shape: Sequence[int]) -> str:
    """Return the shape with multiplication signs between its numbers."""
    return " \u00d7 ".join(map(str, shape))
