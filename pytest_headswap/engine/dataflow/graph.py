"""The data flow graph of one forward pass: which operation computed each tensor, and from which tensors."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

PARAMETER, BUFFER, ATTRIBUTE, INPUT, CONSTANT = "parameter", "buffer", "attribute", "input", "constant"


class Value:
    """One version of a tensor: an in-place operation creates a new value.

    Attributes:
        shape: shape of the tensor.
        node: the operation that computed it; None for a source.
        index: position among the outputs of that operation.
        origin: for a source: `parameter`, `buffer`, `attribute`, `input` or `constant`.
        names: names of a source in the model.
        from_input: whether it depends on an input of the model.
        users: the operations that read it.
    """

    __slots__ = ("from_input", "index", "names", "node", "origin", "shape", "users")

    def __init__(self, shape: tuple[int, ...], node: Node | None = None, index: int = 0, origin: str = "") -> None:
        self.shape = shape
        self.node = node
        self.index = index
        self.origin = origin
        self.names: tuple[str, ...] = ()
        self.from_input = origin == INPUT
        self.users: list[Node] = []

    @property
    def name(self) -> str:
        """Return the first name of a source, or its origin."""
        return self.names[0] if self.names else self.origin


class Node:
    """One operation.

    Attributes:
        name: name without overload, such as `aten::addmm`.
        args: positional arguments of the call, with each tensor replaced by its Value.
        kwargs: keyword arguments, likewise.
        inputs: the tensor arguments in order, including those in lists.
        outputs: the values it computed.
        pointwise: whether it acts on each element separately.
        module: path of the leaf module whose forward ran it, "" if there is none.
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
        """Return whether an argument is an object that may hold weights, as in quantised layers."""
        return any(isinstance(value, torch.ScriptObject) for value in (*self.args, *self.kwargs.values()))

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument of the operation, passed by position or by name."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)


@dataclass
class IdentityCall:
    """A call of an `nn.Identity` and the value that passed through it."""

    path: str
    value: Value
    modules_run_before: int
    """Number of leaf modules that ran before it."""


class Choice(NamedTuple):
    """The dimension `dim` of `value`, over which the model chose an entry that the output `label` holds.

    `is_flat`: the index counts the entries of several dimensions, of which this is one, or meets a table of their
    number.
    """

    label: str
    value: Value
    dim: int
    is_flat: bool


@dataclass
class Graph:
    """The recorded data flow of one run in one mode.

    Attributes:
        training: whether the model ran in train mode.
        tensor_kind: the kind of tensors it ran on: `meta`, `fake` or `real`.
        inputs: the tensors among the inputs, in order. Their names start with "input".
        nodes: the operations in execution order.
        outputs: floating-point outputs by label.
        other_outputs: integer and boolean outputs by label.
        choices: the dimensions over which outputs were chosen, such as by arg-max.
        selections: operations whose output shape depends on the values of their arguments.
        identities: calls of `nn.Identity` modules.
        mutated: names of the model's own tensors that forward wrote to.
        constants: the tensors that are neither the model's nor inputs, nor computed from any.
    """

    training: bool
    tensor_kind: str = ""
    inputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    outputs: dict[str, Value] = field(default_factory=dict)
    other_outputs: dict[str, Value] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    selections: list[Node] = field(default_factory=list)
    identities: list[IdentityCall] = field(default_factory=list)
    mutated: tuple[str, ...] = ()
    constants: dict[Value, weakref.ref[torch.Tensor]] = field(default_factory=dict)

    def live_nodes(self) -> set[Node]:
        """Return the operations that an output depends on."""
        return ancestors((*self.outputs.values(), *(choice.value for choice in self.choices)))

    def clear(self) -> None:
        """Break the links between operations and values, and drop all operations. The graph is unusable afterwards.

        The links are reference cycles, which would otherwise wait for the slower garbage collector.
        """
        for node in self.nodes:
            for value in (*node.inputs, *node.outputs):
                value.node = None
                value.users = []
        self.nodes, self.selections, self.constants = [], [], {}


def ancestors(values: Iterable[Value]) -> set[Node]:
    """Return all operations that the given values depend on."""
    nodes: set[Node] = set()
    stack = [value.node for value in values if value.node is not None]
    while stack:
        node = stack.pop()
        if node not in nodes:
            nodes.add(node)
            stack.extend(value.node for value in node.inputs if value.node is not None)
    return nodes


def is_attention(node: Node) -> bool:
    """Return whether an operation is fused attention, or multiplies two tensors that both depend on the input."""
    name = node.name.split("::")[-1]
    return "attention" in name or (
        name in ("bmm", "matmul", "mm") and all(value.from_input for value in node.inputs[:2])
    )
