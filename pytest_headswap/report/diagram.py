"""Lay out the path from the backbone to the output as a diagram, which the template draws."""

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
    """One step of the path.

    Attributes:
        kind: kind of the step, such as `head` or `operation`.
        name, detail: the two lines of text in the box, truncated to fit.
        full: the untruncated text, shown as a tooltip.
        y, height: top and height of the box in pixels.
        arrow: whether an arrow points to the box from above.
    """

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
    """The diagram as text, for screen readers."""


def head_diagram(head: SwappedHead) -> HeadDiagram | None:
    """Return the diagram of the path through a head; None if the journal does not contain the path."""
    if not head.path_to_output:
        return None
    boxes = [DiagramBox("backbone", "backbone", "", "everything before the head", 1, _FIRST, arrow=False)]
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
    """Return a shape as text, with multiplication signs between the sizes."""
    return " \u00d7 ".join(map(str, shape))
