"""Find operations that make the features of a sample depend on the other samples of its batch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from pytest_headswap.engine.dataflow.dim_flow import DimFlow
from pytest_headswap.engine.dataflow.graph import INPUT, Graph, Node, Value, ancestors
from pytest_headswap.engine.dataflow.trace import ClassAxis

_ALONG = {
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "_softmax", "_log_softmax"), 1),
    **dict.fromkeys(("sort", "flip"), 1),
    "roll": 2,
}
"""Operations that combine the entries of a dimension and keep it, and the position of the argument that names it."""
_PICKING = frozenset(("select", "slice", "unbind", "split", "narrow"))
_BY_INDEX = frozenset(("index", "index_select", "gather", "scatter", "scatter_add", "index_add", "index_put", "take"))


def mixing_node(graph: Graph, before_heads: Collection[Node]) -> Node | None:
    """Return an operation before the heads that mixes samples, or None.

    Samples are counted by the input dimension that reaches the first dimension of an output. They are not taken for
    samples if an input decides how they meet, as for the nodes of a graph or the tokens of a sequence, or if another
    dimension reaches one of the first two dimensions of an output unmixed, as in models with the sequence first.
    """
    flow = DimFlow(graph)
    found: Node | None = None
    sources = {value for node in graph.nodes for value in node.inputs if value.origin == INPUT}
    for source in sources:
        for dim, size in enumerate(source.shape[:2]):
            if size < 2:
                continue
            walk = _Walk(flow, size)
            walk.run(graph, ClassAxis(source, dim))
            reached = {axis.dim for value in graph.outputs.values() for axis in walk.axes.get(value, ())}
            if walk.arranged_by is not None or not reached & {0, 1}:
                continue
            mixed = next((origin for origin, node in walk.mixing if node in before_heads), None)
            if mixed is None:
                return None
            if 0 in reached and found is None:
                found = mixed
    return found


def rows_meet_by_input(graph: Graph) -> bool:
    """Return whether an input decides which rows of another input meet, so that the rows are no samples.

    Edges and adjacency matrices do this with the nodes of a graph. What the model computes from the rows does not
    count.
    """
    flow = DimFlow(graph)
    for source in graph.inputs:
        if not source.shape or source.shape[0] < 2:
            continue
        walk = _Walk(flow, source.shape[0])
        walk.run(graph, ClassAxis(source, 0))
        if walk.arranged_by is not None and source not in _inputs_of(walk.arranged_by):
            return True
    return False


def _inputs_of(value: Value) -> set[Value]:
    """Return the inputs that a value depends on, or the value itself if it is one."""
    return {source for node in ancestors([value]) for source in node.inputs if source.origin == INPUT} | {value}


@dataclass
class _Walk:
    """Follow one input dimension through all operations.

    Attributes:
        axes: the dimensions of each value that run over it.
        combined: values computed from several of its entries, or from a certain one, with the operation that did so.
        mixing: such operations, each with the one where their result meets a value that has the dimension.
        arranged_by: the first value found that depends on an input and decides which entries meet.
    """

    flow: DimFlow
    size: int
    axes: dict[Value, set[ClassAxis]] = field(default_factory=dict)
    combined: dict[Value, Node] = field(default_factory=dict)
    mixing: list[tuple[Node, Node]] = field(default_factory=list)
    arranged_by: Value | None = None

    def run(self, graph: Graph, start: ClassAxis) -> None:
        self.axes[start.value] = {start}
        for node in graph.nodes:
            if any(value in self.axes or value in self.combined for value in node.inputs):
                self._step(node)
                if self.arranged_by is not None:
                    return

    def _step(self, node: Node) -> None:
        carried = [axis for value in dict.fromkeys(node.inputs) for axis in self.axes.get(value, ())]
        kept: set[ClassAxis] = set()
        origin = next((self.combined[x] for x in node.inputs if x in self.combined and x not in self.axes), None)
        for axis in carried:
            links = set(self.flow.step_forward(axis, node, self.size))
            kept |= links
            if self._loses(node, axis, bool(links)):
                origin = node
        for axis in kept:
            self.axes.setdefault(axis.value, set()).add(axis)
        if origin is None:
            return
        if kept:
            self.mixing.append((origin, node))
        else:
            self.combined.update(dict.fromkeys(node.outputs, origin))

    def _loses(self, node: Node, axis: ClassAxis, is_kept: bool) -> bool:
        """Return whether an operation combines or picks entries of the axis. Note the value that arranges them."""
        name = node.name.rpartition("::")[2].rstrip("_")
        if name.startswith(("softmax", "log_softmax")) or f"_{name}" in _ALONG:
            name = f"_{name}"
        relation = self.flow.relation_of(node)
        mine = [operand for operand, value in enumerate(node.inputs) if value is axis.value]
        for partner in self.flow.contracted_with(axis, node):
            if partner.value.from_input or not is_kept:
                self.arranged_by = partner.value
        if name in _BY_INDEX and not is_kept:
            self.arranged_by = next((value for value in node.inputs[1:] if value.from_input), self.arranged_by)
        if name in _ALONG:
            return self._names(node, _ALONG[name], axis)
        if any((operand, axis.dim) in relation.reduced for operand in mine):
            return True
        return name in _PICKING and not is_kept and self._is_picked(node, axis)

    def _names(self, node: Node, position: int, axis: ClassAxis) -> bool:
        """Return whether an argument of an operation names the dimension of the axis."""
        dims = node.argument(position, "dims" if position == 2 or node.name.endswith("flip") else "dim", -1)
        ndim = len(axis.value.shape)
        return axis.dim in {dim % ndim for dim in (dims if isinstance(dims, tuple) else (dims,)) if ndim}

    def _is_picked(self, node: Node, axis: ClassAxis) -> bool:
        """Return whether an operation picks entries of the dimension of the axis."""
        position = {"unbind": 1, "select": 1, "narrow": 1, "slice": 1}.get(node.name.rpartition("::")[2], 2)
        dim = node.argument(position, "dim", 0)
        return isinstance(dim, int) and dim % len(axis.value.shape) == axis.dim
