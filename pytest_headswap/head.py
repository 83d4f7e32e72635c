"""What the engine says about a model: its heads, and what was rejected. Data only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload


class Step(NamedTuple):
    """One step on the way from the backbone through a head to an output.

    `kind`: `layer` (a module without children), `operation` (what runs between two of them), `head`, `activation` or
    `output`. `name`: the path of the module, the names of the operations, or the label of the output. `type`: the
    class of the module. `shape`: of what comes out, with the example inputs and the old head; empty where there
    was nothing to measure.
    """

    kind: str
    name: str
    type: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Head:
    """One classification head: the layer whose width is the class dimension of an output.

    Attributes:
        path: name of the module that holds the projection, as in `model.get_submodule(path)`;
            `""` when the model itself holds it.
        aliases: other names under which the same module is registered.
        kind: `linear`, `conv1d`, `conv2d`, `conv3d`, `parameter` (any other layer that holds the
            weight), or `identity` (the model was built without a head and gains one here).
        in_features: width of what flows into the projection.
        num_classes: class count now; 0 for `identity`.
        class_dim: the dimension of the output that holds the classes, counted from the front.
        role: `main`, `auxiliary` (only seen in train mode, or in an output of its own beside the
            main one) or `distillation`.
        activation: what is applied over the classes before they are returned: `softmax`,
            `log_softmax`, `sigmoid`, or None.
        tensors: full names of all parameters and buffers that have one entry a class.
        outputs: which outputs of the model it reaches, such as `output`, `output[0]`, `output['aux']`.
        evidence: why this is a head, in words, one sentence each.
        way: from the last layers of the backbone through the head to the output, to be looked at.
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
    way: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """A layer that might have been taken for a head, and why it is none."""

    path: str
    reason: str


@dataclass(frozen=True)
class Heads(Sequence[Head]):
    """The heads of one model, in the order in which they reach the outputs. A sequence of `Head`."""

    heads: tuple[Head, ...]
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """What a user should know beside the heads, such as a mode that could not be probed."""
    evidence: str = "meta"
    """How the model was run: `meta` (abstract, no memory), `fake` (fake tensors) or `real`."""

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
