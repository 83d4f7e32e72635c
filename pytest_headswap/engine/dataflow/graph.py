"""The data flow of one forward pass: which operation made which tensor out of which others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

PARAMETER, BUFFER, ATTRIBUTE, INPUT, CONSTANT = "parameter", "buffer", "attribute", "input", "constant"


class Value:
    """One tensor at one moment: an in-place operation on it makes a new value.

    `node` is the operation that made it, None for sources, whose `origin` then says what they are
    (`parameter`, `buffer`, `attribute`, `input` or `constant`) and whose `names` how they are called.
    `from_input` is whether the model's inputs have any influence on it.
    """

    __slots__ = ("consumers", "from_input", "index", "names", "node", "origin", "shape")

    def __init__(self, shape: tuple[int, ...], node: Node | None = None, index: int = 0, origin: str = "") -> None:
        self.shape = shape
        self.node = node
        self.index = index
        self.origin = origin
        self.names: tuple[str, ...] = ()
        self.from_input = origin == INPUT
        self.consumers: list[Node] = []

    @property
    def name(self) -> str:
        """The first name of a source, or a description."""
        return self.names[0] if self.names else self.origin


class Node:
    """One operation: `inputs` are its tensor arguments in order, those in lists included.

    `args` and `kwargs` are the arguments as they were passed, with each tensor replaced by its Value.
    `module` is the path of the module without children in whose forward it ran, "" for none.
    """

    __slots__ = ("args", "inputs", "kwargs", "module", "name", "outputs", "pointwise")

    def __init__(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: list[Value],
        pointwise: bool,
        module: str = "",
    ) -> None:
        self.name = name
        self.args = args
        self.kwargs = kwargs
        self.inputs = inputs
        self.pointwise = pointwise
        self.module = module
        self.outputs: list[Value] = []

    @property
    def has_opaque_argument(self) -> bool:
        """Return whether an argument is an object that may hold weights, such as those of a quantised layer."""
        return any(isinstance(value, torch.ScriptObject) for value in (*self.args, *self.kwargs.values()))

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument of the operation, whether it was passed by position or by name."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)


@dataclass
class IdentityCall:
    """An `nn.Identity` that was executed, and what went through it."""

    path: str
    value: Value
    after: int
    """How many modules without children had been executed before it."""


@dataclass
class Graph:
    """The recorded data flow of one run in one mode.

    `outputs` are the labelled floating-point outputs, `other_outputs` the labels of the integer and boolean ones.
    `selections` are the operations whose result is as large as the values of their arguments decide. `written` are
    the names of the model's own tensors that forward wrote to.
    """

    training: bool
    way: str = ""
    nodes: list[Node] = field(default_factory=list)
    outputs: dict[str, Value] = field(default_factory=dict)
    other_outputs: list[str] = field(default_factory=list)
    selections: list[Node] = field(default_factory=list)
    identities: list[IdentityCall] = field(default_factory=list)
    written: tuple[str, ...] = ()

    def live(self) -> set[Node]:
        """The operations that any output depends on."""
        return ancestors(self.outputs.values())

    def dissolve(self) -> None:
        """Let go of all operations at once; nothing can be asked of them any more.

        Operations and values know each other, which leaves them to the garbage collection, where they take longer.
        """
        for node in self.nodes:
            for value in (*node.inputs, *node.outputs):
                value.node = None
                value.consumers = []
        self.nodes, self.selections = [], []


def ancestors(values: Iterable[Value]) -> set[Node]:
    """All operations that the given values depend on."""
    found: set[Node] = set()
    stack = [value.node for value in values if value.node is not None]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(value.node for value in node.inputs if value.node is not None)
    return found
