"""Draw the folders of the package and their imports: `python docs/architecture.py`.

The imports are read from the source with `ast`, so the picture cannot claim what the code does not do. An arrow that
follows from other arrows is left out; the last line of each box lists all imports of the folder.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "pytest_headswap"
PICTURE = Path(__file__).parent / "pictures" / "architecture.svg"

MODULES = "modules"
PUBLIC = ("__init__", "strategies")  # what users import: names from everywhere, so left out of the picture

Imports = dict[str, set[str]]
"""What each folder imports directly."""

# The folders from top to bottom, each with its left and right edge.
ROWS: tuple[Mapping[str, tuple[int, int]], ...] = (
    {"cli": (460, 720)},
    {"plugin": (0, 380)},
    {"isolation": (0, 260)},
    {"harness": (0, 260)},
    {"checks": (0, 260)},
    {"case": (0, 260)},
    {"zoo": (0, 220), "expectations": (320, 440), "report": (460, 720)},
    {"engine": (0, 380), "results": (400, 720)},
    {MODULES: (0, 720)},
)
PURPOSES = {
    "plugin": "pytest: options, collection, planning, recording, fixtures",
    "cli": "the command headswap",
    "isolation": "models in child processes, with limits",
    "harness": "run checks on a model, build results",
    "checks": "one file per check",
    "case": "one model, built and swapped for checks",
    "zoo": "where models come from",
    "expectations": "known failures",
    "report": "HTML, Markdown, terminal",
    "engine": "find, swap and freeze heads",
    "results": "a result, the journal, merge, compare",
}

_WIDTH, _TALL, _BETWEEN, _LANE, _PAD = 720, 58, 34, 20, 4
_PART_WIDE, _PART_TALL, _PART_GAP = 104, 26, 22
_PARTS_IN_A_ROW = 3
_HEIGHTS = {"engine": _TALL + 2 * (_PART_TALL + _PART_GAP), MODULES: 40}
_STYLE = """
text{font:10px system-ui,sans-serif;text-anchor:middle;fill:#48515f}
.n{font:700 12px ui-monospace,Menlo,Consolas,monospace;fill:#1c2330}
.p{font:11px ui-monospace,Menlo,Consolas,monospace;fill:#1c2330}
rect{fill:#f4f6f9;stroke:#9aa5b4}
.road rect{fill:#e3e7fb;stroke:#5c6bc0}
.part{fill:#fff}
path{fill:none;stroke:#8390a2;stroke-width:1.5;marker-end:url(#tip)}
marker path{fill:#8390a2;stroke:none;marker-end:none}
"""
_ROAD = ("plugin", "isolation", "harness", "checks", "case", "zoo")  # a model passes through these

Point = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """A rectangle by its edges."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def middle(self) -> Point:
        """Return the centre."""
        return (self.left + self.right) // 2, (self.top + self.bottom) // 2


def imports_between(root: Path, package: str) -> Imports:
    """Return what the folders of a package import from each other; modules beside them count as one folder."""
    found: Imports = {}
    for path in sorted(root.rglob("*.py")):
        own = _folder(path.relative_to(root))
        if own in PUBLIC:
            continue
        targets = found.setdefault(own, set())
        for name in _imported(path):
            if name.startswith(f"{package}."):
                module = root.joinpath(*name.removeprefix(f"{package}.").split("."))
                inside = module if module.is_dir() else module.with_suffix(".py")
                if not inside.exists():  # the last part is a name in a module
                    module = module.parent
                    inside = module if module.is_dir() else module.with_suffix(".py")
                targets.add(_folder(inside.relative_to(root)))
        targets -= {own, *PUBLIC, "."}
    return found


def _folder(path: Path) -> str:
    if not path.suffix:
        return path.parts[0] if path.parts else "."
    return path.parts[0] if len(path.parts) > 1 else path.stem if path.stem in PUBLIC else MODULES


def _imported(path: Path) -> Iterator[str]:
    """Yield the dotted names of all imports of a file, those for type checkers included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def essential(imports: Imports) -> Iterator[tuple[str, str]]:
    """Yield the imports that do not follow from others: a -> c is left out beside a -> b -> c."""
    for folder, targets in sorted(imports.items()):
        indirect = {far for near in targets for far in _reached(imports, near)}
        yield from ((folder, target) for target in sorted(targets - indirect))


def _reached(imports: Imports, folder: str) -> set[str]:
    near = imports.get(folder, set())
    return near | {far for each in near for far in _reached(imports, each)}


def draw() -> str:
    """Return the picture as SVG.

    Raises:
        ValueError: a folder is not in `ROWS`, or imports a folder that is not below it.
    """
    imports = imports_between(PACKAGE, PACKAGE.name)
    boxes = _boxes()
    if imports.keys() != boxes.keys():
        raise ValueError(f"ROWS differs from the package in {', '.join(sorted(imports.keys() ^ boxes.keys()))}")
    arrows = _routes(essential(imports), boxes)
    width, height = _WIDTH + _PAD, max(box.bottom for box in boxes.values()) + _PAD
    tip = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 -2 {width} {height}" width="{width}" height="{height}">',
        "<title>The folders of pytest_headswap and their imports</title>",
        f"<style>{_STYLE}</style>",
        f'<defs>{tip}<path d="M0 0L8 4L0 8z"/></marker></defs>',
        *map(_drawn_arrow, arrows),
        *(line for name, box in boxes.items() for line in _drawn_box(name, box, imports[name])),
        *_drawn_parts(boxes["engine"]),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _boxes() -> dict[str, Box]:
    boxes, top = {}, 0
    for row in ROWS:
        for name, (left, right) in row.items():
            boxes[name] = Box(left, top, right, top + _HEIGHTS.get(name, _TALL))
        top = max(box.bottom for box in boxes.values()) + _BETWEEN
    return boxes


def _routes(arrows: Iterable[tuple[str, str]], boxes: Mapping[str, Box]) -> list[list[Point]]:
    """Return a line for each arrow: vertical or with one corner, through no box and over no other line."""
    drawn: list[list[Point]] = []
    for start, end in sorted(arrows, key=lambda arrow: boxes[arrow[1]].top - boxes[arrow[0]].bottom):
        if boxes[end].top < boxes[start].bottom:
            raise ValueError(f"{start} imports {end}, which is not below it")
        others = [box for name, box in boxes.items() if name not in (start, end)]
        lines = [line for line in _candidates(boxes[start], boxes[end]) if not _blocked(line, others, drawn)]
        if not lines:
            raise ValueError(f"no room for an arrow from {start} to {end}: move a box in ROWS")
        drawn.append(min(lines, key=lambda line: (len(line), _crossings(line, drawn))))
    return drawn


def _candidates(start: Box, end: Box) -> Iterator[list[Point]]:
    """Yield lines from one box down to another, those nearest to the middle of the narrower box first."""
    narrower = min(start, end, key=lambda box: box.right - box.left)
    lanes = sorted(range(_LANE // 2, _WIDTH, _LANE), key=lambda x: abs(x - narrower.middle[0]))
    leaving = [x for x in lanes if start.left < x < start.right]
    arriving = [x for x in lanes if end.left < x < end.right]
    yield from ([(x, start.bottom), (x, end.top)] for x in leaving if x in arriving)
    for x in arriving:
        side = start.right if x > start.right else start.left
        yield [(side, start.middle[1]), (x, start.middle[1]), (x, end.top)]
    for x in leaving:
        side = end.right if x > end.right else end.left
        yield [(x, start.bottom), (x, end.middle[1]), (side, end.middle[1])]


def _segments(line: list[Point]) -> Iterator[Box]:
    for (x, y), (to_x, to_y) in pairwise(line):
        yield Box(min(x, to_x), min(y, to_y), max(x, to_x), max(y, to_y))


def _blocked(line: list[Point], boxes: Iterable[Box], drawn: Iterable[list[Point]]) -> bool:
    taken = [segment for other in drawn for segment in _segments(other)]
    for piece in _segments(line):
        if any(_touch(piece, box, 6) for box in boxes):
            return True
        parallel = [other for other in taken if (other.left == other.right) == (piece.left == piece.right)]
        if any(_touch(piece, other, 8) for other in parallel):
            return True
    return False


def _touch(one: Box, other: Box, room: int) -> bool:
    return (
        one.left < other.right + room
        and other.left < one.right + room
        and one.top < other.bottom + room
        and other.top < one.bottom + room
    )


def _crossings(line: list[Point], drawn: Iterable[list[Point]]) -> int:
    pieces = [segment for other in drawn for segment in _segments(other)]
    return sum(_touch(one, other, 1) for one, other in product(_segments(line), pieces))


def _drawn_arrow(line: list[Point]) -> str:
    return '<path d="M' + "L".join(f"{x} {y}" for x, y in line) + '"/>'


def _drawn_box(name: str, box: Box, imports: set[str]) -> Iterator[str]:
    x, width, tall = box.middle[0], box.right - box.left, box.bottom - box.top
    yield f'<g class="{"road" if name in _ROAD else "side"}">'
    yield f'<rect x="{box.left}" y="{box.top}" width="{width}" height="{tall}" rx="6"/>'
    if name == MODULES:
        files = (path.name for path in sorted(PACKAGE.glob("*.py")) if path.stem not in PUBLIC)
        yield f'<text class="p" x="{x}" y="{box.top + 17}">{" ".join(files)}</text>'
        yield f'<text x="{x}" y="{box.top + 32}">plain data and text; every folder may import them</text>'
    else:
        known = ", ".join(sorted(imports - {MODULES}))
        yield f'<text class="n" x="{x}" y="{box.top + 18}">{name}</text>'
        yield f'<text x="{x}" y="{box.top + 34}">{PURPOSES[name]}</text>'
        yield f'<text x="{x}" y="{box.top + 49}">{f"imports {known}" if known else "imports no other folder"}</text>'
    yield "</g>"


def _drawn_parts(engine: Box) -> Iterator[str]:
    """Yield the folders of the engine: the lowest at the left of the lower row, the next ones to the right and back."""
    imports = imports_between(PACKAGE / "engine", f"{PACKAGE.name}.engine")
    imports = {name: targets - {MODULES} for name, targets in imports.items() if name != MODULES}
    names = sorted(imports, key=lambda name: len(_reached(imports, name)))
    rows = [names[:_PARTS_IN_A_ROW], names[_PARTS_IN_A_ROW:][::-1]]
    places = {}
    for number, row in enumerate(rows):
        top = engine.bottom - 14 - _PART_TALL - number * (_PART_TALL + _PART_GAP)
        for column, name in enumerate(row):
            left = engine.left + 12 + column * (_PART_WIDE + _PART_GAP)
            places[name] = Box(left, top, left + _PART_WIDE, top + _PART_TALL)
    for start, end in essential(imports):
        yield _drawn_arrow(_straight(places[start], places[end]))
    for name, box in places.items():
        yield (
            f'<rect class="part" x="{box.left}" y="{box.top}" width="{_PART_WIDE}" height="{_PART_TALL}" rx="4"/>'
            f'<text class="p" x="{box.middle[0]}" y="{box.top + 17}">{name}</text>'
        )


def _straight(start: Box, end: Box) -> list[Point]:
    """Return the line between the nearest sides of two boxes."""
    pairs = product(_sides(start), _sides(end))
    nearest = min(pairs, key=lambda ends: abs(ends[0][0] - ends[1][0]) + abs(ends[0][1] - ends[1][1]))
    return list(nearest)


def _sides(box: Box) -> list[Point]:
    x, y = box.middle
    return [(box.left, y), (box.right, y), (x, box.top), (x, box.bottom)]


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(PICTURE.name)
