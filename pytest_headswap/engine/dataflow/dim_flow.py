"""Step along the dimensions of a recorded graph, from operation to operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pytest_headswap.engine.dataflow.assembled import selections_before
from pytest_headswap.engine.dataflow.dims import relation
from pytest_headswap.engine.dataflow.dims.links import DimRelation
from pytest_headswap.engine.dataflow.graph import INPUT, Graph, Node, Value, ancestors
from pytest_headswap.engine.dataflow.trace import ClassAxis


class DimFlow:
    """The dimension relations of one recorded graph. They are computed once per operation."""

    def __init__(self, graph: Graph) -> None:
        self._relations: dict[Node, DimRelation] = {}
        self.live_nodes = graph.live_nodes()
        self.output_values = set(graph.outputs.values())
        self._nodes = graph.nodes
        self._other_outputs = graph.other_outputs.values()

    def used_names(self) -> set[str]:
        """Return the names of the model's tensors that an output of any dtype depends on."""
        nodes = self.live_nodes | ancestors(self._other_outputs)
        return {name for node in nodes for value in node.inputs for name in value.names}

    def relation_of(self, node: Node) -> DimRelation:
        """Return the dimension relation of an operation."""
        if node not in self._relations:
            self._relations[node] = relation(node)
        return self._relations[node]

    def _summed_features(self, axis: ClassAxis, operand: int) -> ClassAxis | None:
        """Return the features that a tensor is multiplied with or subtracted from, element by element, and summed over.

        The features have no class index of their own: `(w * x[:, None]).sum(-1)`, or a loop that adds
        `w[:, i] * x[:, i : i + 1]`. None for all other operations.
        """
        node = axis.value.node
        if node is None or not node.pointwise or node.inputs[operand].from_input or not axis.value.from_input:
            return None
        links = self.relation_of(node).links
        own_dims = {link.out_dim for link in links if link.operand == operand} - {axis.dim}
        positions = {(base.shape[dim], position) for base, dim, position in selections_before(node.inputs[operand])}
        if not own_dims and not positions:
            return None
        for other, value in enumerate(node.inputs):
            dims = {link.out_dim: link.in_dim for link in links if link.operand == other}
            if not value.from_input or (axis.dim in dims and self.begins(ClassAxis(value, dims[axis.dim]))):
                continue
            for dim in own_dims & dims.keys():
                if self.is_reduced(axis.value, dim):
                    return ClassAxis(value, dims[dim])
            for base, dim, position in selections_before(value) if positions else ():
                if position == 0 and (base.shape[dim], position) in positions:
                    return ClassAxis(base, dim)
        return None

    def begins(self, axis: ClassAxis) -> bool:
        """Return whether a dimension comes from a tensor of the model or an input, and is not merely expanded."""
        visited: set[ClassAxis] = set()
        stack = [axis]
        while stack:
            axis = stack.pop()
            node = axis.value.node
            if node is None and (axis.value.names or axis.value.origin == INPUT):
                return True
            if node is None or axis in visited:
                continue
            visited.add(axis)
            stack += [
                ClassAxis(node.inputs[link.operand], link.in_dim)
                for link in self.relation_of(node).links
                if link.output == axis.value.index and link.out_dim == axis.dim
            ]
        return False

    def is_reduced(self, value: Value, dim: int) -> bool:
        """Return whether a dimension of a value is summed, averaged or otherwise combined to one number later."""
        size = value.shape[dim]
        start = ClassAxis(value, dim)
        return size > 1 and any(
            node.inputs[operand] is axis.value and dim == axis.dim
            for axis, node in self._trace_forward(start, size, lambda node: node in self.live_nodes)
            for operand, dim in self._reduced_dims(node)
        )

    def _reduced_dims(self, node: Node) -> Iterator[tuple[int, int]]:
        """Yield each operand and dimension that is summed over, also with a vector of weights."""
        relation = self.relation_of(node)
        yield from relation.reduced
        wide = {link.operand for link in relation.links if link.size > 1}
        for pair in relation.contracted:
            for one, (other, _) in (pair, pair[::-1]):
                if other not in wide:
                    yield one

    def _trace_forward(
        self, start: ClassAxis, size: int, is_relevant: Callable[[Node], bool]
    ) -> Iterator[tuple[ClassAxis, Node]]:
        """Yield every axis that the class index of `start` reaches, with each `is_relevant` operation that reads it."""
        visited: set[ClassAxis] = set()
        stack = [start]
        while stack:
            axis = stack.pop()
            if axis in visited:
                continue
            visited.add(axis)
            for node in axis.value.users:
                if is_relevant(node):
                    yield axis, node
                    stack.extend(self.step_forward(axis, node, size))

    def step_forward(self, axis: ClassAxis, node: Node, size: int) -> Iterator[ClassAxis]:
        """Yield the dimensions of the results that run over the class index of `axis`."""
        for link in self.relation_of(node).links:
            if node.inputs[link.operand] is axis.value and link.in_dim == axis.dim:
                inner = map_stride(axis.inner, size, link.in_inner, link.out_inner, link.size)
                if inner is not None:
                    yield ClassAxis(node.outputs[link.output], link.out_dim, inner)

    def contracted_with(self, axis: ClassAxis, node: Node) -> Iterator[ClassAxis]:
        """Yield the dimensions that the dimension of `axis` is multiplied with and summed over."""
        for pair in self.relation_of(node).contracted:
            for (operand, dim), (other, other_dim) in (pair, pair[::-1]):
                if node.inputs[operand] is axis.value and dim == axis.dim:
                    yield ClassAxis(node.inputs[other], other_dim)


def map_stride(inner: int, size: int, own_inner: int, other_inner: int, shared: int) -> int | None:
    """Return the stride of a class index on the other side of a link.

    None if the class index does not lie entirely within the shared factor.
    """
    if inner % own_inner or shared % (inner // own_inner * size):
        return None
    return inner // own_inner * other_inner
