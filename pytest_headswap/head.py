"""Describe the heads of a model and the rejected layers, as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload


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
        activation: activation over the classes before they are returned: `softmax`, `log_softmax`, `sigmoid` or None.
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
