"""Lay out the path from backbone to output as a small picture. The template draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_headswap._text import printable, shortened, shortened_left
from pytest_headswap.results.head_record import HeadFacts

WIDTH = 284
_FIRST, _HIGH, _GAP = 26, 40, 14
_NAME_FITS, _DETAIL_FITS = 36, 42


@dataclass(frozen=True)
class Box:
    """One step: its text, and the top and height of its box. `arrow`: whether an arrow leads down to it."""

    kind: str
    name: str
    detail: str
    full: str
    y: int
    height: int
    arrow: bool = True


@dataclass(frozen=True)
class Picture:
    """The boxes of one head, from top to bottom."""

    boxes: tuple[Box, ...]
    width: int
    height: int
    said: str
    """The picture in words, for screen readers."""


def picture_of(head: HeadFacts) -> Picture | None:
    """Return the picture of the path through a head; None if the journal does not hold the path."""
    if not head.way:
        return None
    boxes = [Box("backbone", "backbone", "", "all that comes before", 1, _FIRST, arrow=False)]
    y = 1 + _FIRST + _GAP
    for step in head.way:
        name = printable(step.name) or "the model itself"
        detail = " · ".join(filter(None, (printable(step.type), sizes(step.shape))))
        full = f"{step.kind}: {name}, {detail}" if detail else f"{step.kind}: {name}"
        shown = shortened_left(name, _NAME_FITS)
        boxes.append(Box(step.kind, shown, shortened(detail, _DETAIL_FITS), full, y, _HIGH))
        y += _HIGH + _GAP
    said = " to ".join(["backbone", *(printable(step.name) or "the model itself" for step in head.way)])
    return Picture(tuple(boxes), WIDTH, y - _GAP + 1, said)


def sizes(shape: Sequence[int]) -> str:
    """Return the shape with multiplication signs between its numbers."""
    return " \u00d7 ".join(map(str, shape))
