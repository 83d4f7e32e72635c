"""Describe the heads of a model and the rejected layers, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

from pytest_headswap._text import escape_unprintable, pluralize

_EVIDENCE = {
    "meta": "an abstract run on the meta device",
    "fake": "a run under fake tensors",
    "real": "a run with real tensors",
}
_TITLE_WIDTH = 17


class PathStep(NamedTuple):
    """One step on the path from the backbone through a head to an output.

    Attributes:
        kind: `layer` (a leaf module), `operation` (operations between two leaf modules), `head`, `activation` or
            `output`.
        name: path of the module, names of the operations, or label of the output.
        type: class of the module; empty for operations and outputs.
        shape: shape of the result, with the example inputs and the old head. Empty if it was not recorded.
    """

    kind: str
    name: str
    type: str = ""
    shape: tuple[int, ...] = ()


CHOSEN = "arg-max behind "
"""Start of the label of an output that is chosen from the classes, and has no class dimension."""


@dataclass(frozen=True, slots=True)
class Head:
    """One classification head: the layer whose width is the class dimension of an output.

    Attributes:
        path: path of the module that holds the projection, as in `model.get_submodule(path)`; `""` for the model
            itself.
        aliases: other paths of the same module.
        kind: operation of the projection: `linear` (any matrix product with a weight), `conv1d`, `conv2d`, `conv3d`,
            `bilinear`, `distance` (distances to one prototype per class), `embedding` (a table with class scores for
            each token), `thresholds` (one logit, compared with a threshold per class) or `list` (a list with one layer
            for each label). `identity`: the model was built without a head, and a new one goes here.
        in_features: number of features that the projection reads.
        num_classes: current class count; 0 for `identity`.
        class_dim: index of the class dimension of the output, counted from the front.
        role: `main`, `auxiliary` (runs only in train mode, or has a separate output next to the main one) or
            `distillation`.
        activation: what turns the class scores into the output: `softmax`, `log_softmax`, `sigmoid` or None. Neither a
            gate nor a softmax over another dimension counts.
        tensors: full names of all class-sized parameters and buffers.
        outputs: labels of the outputs that the head reaches, such as `output`, `output[0]`, `output['aux']`. If the
            model returns only what it chose from the classes, the label is such as `arg-max behind output['labels']`.
        evidence: reasons why this is a head, one sentence each.
        path_to_output: path from the last layers of the backbone through the head to the output, for display.
    """

    path: str
    kind: str
    in_features: int
    num_classes: int
    class_dim: int
    role: str = "main"
    activation: str | None = None
    aliases: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    path_to_output: tuple[PathStep, ...] = ()

    @property
    def class_outputs(self) -> tuple[str, ...]:
        """The labels of the outputs that have the class dimension."""
        return tuple(label for label in self.outputs if not label.startswith(CHOSEN))


class Section(NamedTuple):
    """A part of the description of heads: one head, the rejected layers or the notes.

    Attributes:
        title: path of the head, or the title of a list.
        rows: pairs of a title and a text. Rows of a list, and further sentences of evidence, have no title.
        is_head: whether it describes a head.
    """

    title: str
    rows: tuple[tuple[str, str], ...]
    is_head: bool = False

    def lines(self) -> list[tuple[str, str]]:
        """Return the rows as text, in two parts: the title, filled up with spaces, and the text."""
        width = _TITLE_WIDTH if self.is_head else 0
        return [(f"  {title:<{width}}", text) for title, text in self.rows]


def head_section(head: Head) -> Section:
    """Return the description of a head."""
    rows = [
        ("aliases", ", ".join(head.aliases)),
        ("kind", f"{head.kind}, {head.in_features} -> {head.num_classes or 'no classes yet'}"),
        ("role", head.role),
        ("class dimension", str(head.class_dim)),
        ("activation", head.activation or "none"),
        ("outputs", ", ".join(head.outputs)),
        ("tensors", ", ".join(head.tensors)),
        ("path", " -> ".join(step.name or "the model itself" for step in head.path_to_output)),
    ]
    rows += [("" if number else "evidence", sentence) for number, sentence in enumerate(head.evidence)]
    shown = tuple((title, escape_unprintable(text)) for title, text in rows if text)
    return Section(escape_unprintable(head.path) or "the model itself", shown, is_head=True)


def list_section(title: str, sentences: Iterable[str]) -> Section:
    """Return a list of sentences."""
    return Section(title, tuple(("", escape_unprintable(sentence)) for sentence in sentences))


def html_table(caption: str, rows: Iterable[Sequence[str]]) -> str:
    """Return a table for a notebook. All texts are escaped."""
    lines = ("".join(f"<td>{escape_html(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><caption>{escape_html(caption)}</caption><tbody>{body}</tbody></table>"


def escape_html(text: str) -> str:
    """Return a text for HTML, with unprintable characters escaped."""
    import html  # only notebooks need it, and every run loads this module

    return html.escape(escape_unprintable(text))


@dataclass(frozen=True)
class Rejected:
    """A layer that was considered as a head, and the reason why it is not one."""

    path: str
    reason: str


@dataclass(frozen=True)
class Heads(Sequence[Head]):
    """The heads of one model, in the order in which they reach the outputs. A sequence of `Head`.

    Attributes:
        heads: the heads.
        rejected: layers that were considered and rejected.
    """

    heads: tuple[Head, ...]
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """Other facts the user should know, such as a mode that could not be run."""
    tensor_kind: str = "meta"
    """Kind of tensors that the model was run on: `meta` (no memory), `fake` or `real` (copies of all tensors)."""

    @overload
    def __getitem__(self, index: int) -> Head: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Head, ...]: ...
    def __getitem__(self, index: int | slice) -> Head | tuple[Head, ...]:
        return self.heads[index]

    def __len__(self) -> int:
        return len(self.heads)

    def __iter__(self) -> Iterator[Head]:
        return iter(self.heads)

    @property
    def summary(self) -> str:
        """The number of heads, and how they were found."""
        return f"{pluralize(len(self), 'head')}, found by {_EVIDENCE.get(self.tensor_kind, self.tensor_kind)}"

    def sections(self) -> list[Section]:
        """Return the description: a section for each head, then the rejected layers and the notes, if any."""
        rejected = (f"{item.path or 'the model itself'}: {item.reason}" for item in self.rejected)
        lists = (list_section("Rejected", rejected), list_section("Notes", self.notes))
        return [*map(head_section, self.heads), *(section for section in lists if section.rows)]

    def __str__(self) -> str:
        parts = ("\n".join([part.title, *map("".join, part.lines())]) for part in self.sections())
        return "\n\n".join([self.summary, *parts])

    def _repr_html_(self) -> str:
        tables = (html_table(part.title, part.rows) for part in self.sections())
        return "".join([f"<p>{escape_html(self.summary)}</p>", *tables])
