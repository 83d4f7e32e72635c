"""Draw the pictures of "How heads are found" from what the engine finds: `python docs/head_diagrams.py`.

Steps that several heads share are drawn once: the same layer, or operations that return the same tensor. Colours work
in both the light and the dark theme: dark text in light boxes, and grey lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from importlib.metadata import version
from pathlib import Path

from torch import nn

from pytest_headswap import Heads, find_heads
from pytest_headswap._text import truncate, truncate_left
from pytest_headswap.case.skip_init import on_meta_if_possible
from pytest_headswap.engine import infer_inputs, read_inputs
from pytest_headswap.engine.dataflow.graph import Value
from pytest_headswap.engine.dataflow.recorder import record
from pytest_headswap.report.diagram import sizes
from pytest_headswap.zoo import ModelSpec, load_zoo

FOLDER = Path(__file__).parent / "pictures"
MODELS = {
    "resnet18": "timm:resnet18",
    "deit_distilled": "timm:deit_tiny_distilled_patch16_224",
    "squeezenet": "torchvision:squeezenet1_1",
    "swin": "timm:swin_tiny_patch4_window7_224",
    "lstm": "builtin:lstm",
    "fasterrcnn": "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",
    "googlenet": "torchvision:googlenet",
}

_LIBRARIES = ("torch", "torchvision", "timm")  # they determine the operations and their order

_WIDE, _HIGH, _BETWEEN, _DOWN = 204, 40, 12, 20
_NAME_FITS, _DETAIL_FITS = 28, 36
_STYLE = """
text{font:11px ui-monospace,Menlo,Consolas,monospace;text-anchor:middle;fill:#1c2330}
.d{font:10px system-ui,sans-serif;fill:#48515f}
rect{fill:#f4f6f9;stroke:#9aa5b4}
.backbone rect{fill:#dfe4ea}
.head rect{fill:#3949ab;stroke:#3949ab}
.head text,.head .d{fill:#fff}
.activation rect{fill:#fff0cc}
.output rect{fill:#dcf1e2}
path{fill:none;stroke:#8390a2;stroke-width:1.5}
.way{stroke:#5c6bc0;stroke-width:3}
.n{font-weight:700}
"""


@dataclass(frozen=True)
class Box:
    """One step, as text.

    Attributes:
        classes: the class count, if the class dimension passes through; marks it in the shape.
        result: distinguishes operations of the same name: the number of the tensor that the next layer reads, or the
            output they end in. Empty for layers, which have unique names.
    """

    kind: str
    name: str
    detail: str
    classes: int = 0
    result: str = ""


Edge = tuple[Box, Box, bool]
"""From one step to the next; True if the class dimension passes along the edge."""


def versions() -> str:
    """Return the library versions used to draw the pictures, as major.minor."""
    return ", ".join(f"{name} {'.'.join(version(name).split('.')[:2])}" for name in _LIBRARIES)


@dataclass(frozen=True)
class HeadSurvey:
    """The heads of a model, and for each layer's path the number of the tensor that it reads."""

    heads: Heads
    read: dict[str, int]


def survey_heads(reference: str) -> HeadSurvey:
    """Find the heads of a zoo's model, on the meta device if possible."""
    zoo, _, name = reference.partition(":")
    spec = load_zoo(zoo)[name]
    return on_meta_if_possible(spec.build, partial(_survey, spec))


def _survey(spec: ModelSpec, model: nn.Module) -> HeadSurvey:
    given = read_inputs(spec.example_inputs(model)) if spec.example_inputs is not None else None
    inputs = given or infer_inputs(model)
    read: dict[str, int] = {}
    numbers: dict[Value, int] = {}
    for node in record(model, inputs, training=True).nodes:  # auxiliary heads run only in train mode
        outside = [
            value for value in node.inputs if value.from_input and getattr(value.node, "module", "") != node.module
        ]
        if outside:
            read.setdefault(node.module, numbers.setdefault(outside[0], len(numbers)))
    return HeadSurvey(find_heads(model, inputs), read)


def path_edges(survey: HeadSurvey) -> list[Edge]:
    """Return the steps of all heads, starting at the backbone. Steps that heads share are one box."""
    edges: dict[Edge, None] = {}
    for head in survey.heads:
        last, classes = Box("backbone", "backbone", ""), 0
        for step, following in zip(head.path_to_output, [*head.path_to_output[1:], None], strict=True):
            passes = bool(classes)
            classes = head.num_classes if step.kind == "head" else classes
            detail = " · ".join(filter(None, (step.type, sizes(step.shape))))
            named = bool(step.type) or following is None
            result = "" if named or following is None else str(survey.read.get(following.name, following.name))
            box = Box(step.kind, step.name, detail, classes, result)
            edges[last, box, passes] = None
            last = box
    return list(edges)


def diagram_rows(edges: list[Edge]) -> list[list[Box]]:
    """Return the rows of boxes from top to bottom: each box is below all boxes that lead to it."""
    depth = {box: 0 for edge in edges for box in edge[:2]}
    for _ in depth:
        for before, after, _passes in edges:
            depth[after] = max(depth[after], depth[before] + 1)
    return [[box for box in depth if depth[box] == row] for row in range(max(depth.values()) + 1)]


def head_diagram(survey: HeadSurvey) -> str:
    """Return the picture as SVG."""
    edges = path_edges(survey)
    rows = diagram_rows(edges)
    columns = max(map(len, rows))
    width, height = columns * (_WIDE + _BETWEEN), len(rows) * (_HIGH + _DOWN) - _DOWN + 4
    places = {
        box: (round(width * (place + 0.5) / len(row)), 2 + number * (_HIGH + _DOWN))
        for number, row in enumerate(rows)
        for place, box in enumerate(row)
    }
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<desc>{versions()}</desc>",
        f"<style>{_STYLE}</style>",
        *_drawn_edges(edges, places),
        *(line for box, place in places.items() for line in _drawn_box(box, *place)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _drawn_edges(edges: list[Edge], places: dict[Box, tuple[int, int]]) -> Iterator[str]:
    for before, after, passes in edges:
        (x, top), (to_x, to_y) = places[before], places[after]
        y, style = top + _HIGH, ' class="way"' if passes else ""
        bend = min(_DOWN, to_y - y)
        yield f'<path{style} d="M{x} {y}C{x} {y + bend} {to_x} {to_y - bend} {to_x} {to_y}"/>'


def _drawn_box(box: Box, x: int, y: int) -> Iterator[str]:
    yield f'<g class="{box.kind}"><rect x="{x - _WIDE // 2}" y="{y}" width="{_WIDE}" height="{_HIGH}" rx="6"/>'
    name = escape(truncate_left(box.name or "the model itself", _NAME_FITS))
    yield f'<text x="{x}" y="{y + (17 if box.detail else 24)}">{name}</text>'
    if box.detail:
        yield f'<text class="d" x="{x}" y="{y + 32}">{_marked(box)}</text>'
    yield "</g>"


def _marked(box: Box) -> str:
    """Return the class and the shape, with the class count in bold."""
    words = truncate(box.detail, _DETAIL_FITS).split(" ")
    count = str(box.classes) if box.classes else ""
    return " ".join(f'<tspan class="n">{word}</tspan>' if word == count else escape(word) for word in words)


def main() -> None:
    """Draw all pictures."""
    for name, reference in MODELS.items():
        (FOLDER / f"{name}.svg").write_text(head_diagram(survey_heads(reference)), encoding="utf-8")
        print(f"{name}.svg: {reference}")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    main()
