"""Trace an output dimension back to the tensors that set its size, and forward to the operations that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from pytest_headswap.engine.dataflow.dims import relation
from pytest_headswap.engine.dataflow.dims.links import DimRelation
from pytest_headswap.engine.dataflow.graph import INPUT, Graph, Node, Value, ancestors


class ClassAxis(NamedTuple):
    """The class index within dimension `dim` of a tensor.

    The dimension may be larger than the class count, for example anchors * classes. The class index is then the
    factor with stride `inner`.
    """

    value: Value
    dim: int
    inner: int = 1

    def outer(self, size: int) -> int:
        """Return how often the full range of classes repeats in the dimension."""
        return self.value.shape[self.dim] // (size * self.inner)


@dataclass(frozen=True)
class Projection:
    """A product of features with a tensor of the model that gives the output its class dimension."""

    node: Node
    weight: ClassAxis
    features: ClassAxis
    output: ClassAxis

    @property
    def in_features(self) -> int:
        """Return the number of features that are multiplied and summed."""
        return self.features.value.shape[self.features.dim]


@dataclass
class Trace:
    """The result of tracing an output dimension backwards.

    Attributes:
        size: the class count.
        sources: tensors of the model, inputs and constants at which the dimension begins.
        projections: products of features with a weight that sets the dimension.
        obstacles: reason codes and sentences that say why the dimension could not be traced further.
        partial_sources: the operands of the operations where it broke, with the reason code.
        ends: operations whose output has the dimension although none of their operands has it.
        nodes: the traced operations, the last one first.
        merge_points: for a tensor of the model, the operation where it meets data from the input, and its operand index
            there.
    """

    size: int
    sources: list[ClassAxis] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)
    obstacles: list[tuple[str, str]] = field(default_factory=list)
    partial_sources: list[tuple[str, ClassAxis]] = field(default_factory=list)
    ends: list[Node] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    merge_points: dict[ClassAxis, tuple[Node, int]] = field(default_factory=dict)
    from_input: bool = False
    """Whether an input of the model sets the dimension. Tracing stops there."""


class Tracer:
    """Trace dimensions through one recorded graph. Dimension relations are computed once per operation."""

    def __init__(self, graph: Graph) -> None:
        self._relations: dict[Node, DimRelation] = {}
        self._live_nodes = graph.live_nodes()
        self._nodes = graph.nodes

    def _relation(self, node: Node) -> DimRelation:
        if node not in self._relations:
            self._relations[node] = relation(node)
        return self._relations[node]

    @cached_property
    def _positions(self) -> dict[Node, int]:
        return {node: position for position, node in enumerate(self._nodes)}

    def position(self, value: Value) -> int:
        """Return the position in execution order of the operation that computed a value; -1 for a source."""
        return self._positions.get(value.node, -1) if value.node is not None else -1

    def calls(self, module: str) -> list[tuple[int, Node]]:
        """Return the operations that a leaf module ran, with their positions."""
        return [(position, node) for position, node in enumerate(self._nodes) if node.module == module]

    def trace_back(self, start: ClassAxis, size: int) -> Trace:
        """Trace the class index of `start` back to where it begins. Stop early at an input of the model."""
        trace = Trace(size)
        visited: set[ClassAxis] = set()
        stack: list[tuple[ClassAxis, tuple[Node, int] | None]] = [(start, None)]
        while stack and not trace.from_input:
            axis, merge_point = stack.pop()
            if axis in visited:
                continue
            visited.add(axis)
            if axis.value.node is None:
                trace.sources.append(axis)
                trace.from_input = axis.value.origin == INPUT
                if merge_point is not None:
                    trace.merge_points[axis] = merge_point
                continue
            trace.nodes.append(axis.value.node)
            for operand, before in self._step_back(axis, axis.value.node, trace):
                is_merge_point = axis.value.from_input and not before.value.from_input
                stack.append((before, (axis.value.node, operand) if is_merge_point else merge_point))
        return trace

    def _step_back(self, axis: ClassAxis, node: Node, trace: Trace) -> Iterator[tuple[int, ClassAxis]]:
        relation = self._relation(node)
        links = [x for x in relation.links if x.output == axis.value.index and x.out_dim == axis.dim]
        obstacle = relation.partial.get((axis.value.index, axis.dim))
        if obstacle:
            reason = "concatenated" if node.name.endswith("cat") else "composite"
            trace.obstacles.append((reason, f"the dimension {obstacle} ({node.name})"))
            trace.partial_sources += [
                (reason, ClassAxis(value, axis.dim)) for value in node.inputs if len(value.shape) > axis.dim
            ]
        if not links and not obstacle:
            trace.ends.append(node)
        followed = False
        for link in links:
            inner = _map_stride(axis.inner, trace.size, link.out_inner, link.in_inner, link.size)
            if inner is not None:
                followed = True
                before = ClassAxis(node.inputs[link.operand], link.in_dim, inner)
                features = _feature_axis(relation, link.operand, node)
                if features is not None and not before.value.from_input and source_name(before.value):
                    trace.projections.append(Projection(node, before, features, axis))
                yield link.operand, before
        if links and not followed:
            trace.obstacles.append(("composite", f"the dimension is merged from several dimensions ({node.name})"))
            trace.partial_sources += [
                ("composite", ClassAxis(node.inputs[link.operand], link.in_dim)) for link in links
            ]

    def find_consumer(self, start: ClassAxis, size: int) -> str | None:
        """Return the name of a tensor of the model that consumes the class index of `start`, or None.

        Only operations that an output depends on count. The class index of a head ends in the outputs; that of a
        backbone layer is summed over with the weights of the next layer.
        """
        for axis, node in self._trace_forward(start, size, lambda node: node in self._live_nodes):
            for partner in self._contracted_with(axis, node):
                name = "" if partner.value.from_input else source_name(partner.value)
                if name:
                    return name
        return None

    def compared_features(self, start: ClassAxis, size: int) -> Iterator[ClassAxis]:
        """Yield the dimensions of other features that the class index of `start` is multiplied with and summed over."""
        for axis, node in self._trace_forward(start, size, lambda node: node in self._live_nodes):
            yield from (partner for partner in self._contracted_with(axis, node) if partner.value.from_input)

    def co_factors(self, sources: list[ClassAxis], size: int) -> list[ClassAxis]:
        """Return the tensors of the model that are multiplied with the class index of `sources` to compute the weight.

        Reparametrised layers have such tensors, for example the singular vector of spectral norm.
        """
        factors: dict[ClassAxis, None] = {}
        for source in sources:
            for axis, node in self._trace_forward(
                source, size, lambda node: not any(v.from_input for v in node.inputs)
            ):
                for partner in self._contracted_with(axis, node):
                    factors.update(
                        dict.fromkeys(item for item in self.trace_back(partner, size).sources if item.value.names)
                    )
        return [axis for axis in factors if axis not in sources]

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
                    stack.extend(self._step_forward(axis, node, size))

    def _step_forward(self, axis: ClassAxis, node: Node, size: int) -> Iterator[ClassAxis]:
        for link in self._relation(node).links:
            if node.inputs[link.operand] is axis.value and link.in_dim == axis.dim:
                inner = _map_stride(axis.inner, size, link.in_inner, link.out_inner, link.size)
                if inner is not None:
                    yield ClassAxis(node.outputs[link.output], link.out_dim, inner)

    def _contracted_with(self, axis: ClassAxis, node: Node) -> Iterator[ClassAxis]:
        """Yield the dimensions that the dimension of `axis` is multiplied with and summed over."""
        for pair in self._relation(node).contracted:
            for (operand, dim), (other, other_dim) in (pair, pair[::-1]):
                if node.inputs[operand] is axis.value and dim == axis.dim:
                    yield ClassAxis(node.inputs[other], other_dim)

    def is_batched(self, projection: Projection) -> bool:
        """Return whether the features have the dimension as well: the product then runs once for each entry of it."""
        return any(
            projection.node.inputs[link.operand] is projection.features.value and link.out_dim == projection.output.dim
            for link in self._relation(projection.node).links
        )

    def weights_of(self, node: Node) -> set[str]:
        """Return the names of the model's tensors that an operation multiplies features with and sums over."""
        operands = {operand for pair in self._relation(node).contracted for operand, _ in pair}
        values = [node.inputs[operand] for operand in operands]
        if not any(value.from_input for value in values):
            return set()
        return {name for value in values if not value.from_input and (name := source_name(value))}

    def uses_with_input(self, value: Value) -> list[Node]:
        """Return the operations where a tensor, or one computed only from it, meets data from the input."""
        uses: list[Node] = []
        visited: set[Node] = set()
        stack = list(value.users)
        while stack:
            node = stack.pop()
            if node in visited or node not in self._live_nodes:
                continue
            visited.add(node)
            if any(output.from_input for output in node.outputs):
                uses.append(node)
            else:
                stack.extend(consumer for output in node.outputs for consumer in output.users)
        return uses

    def parameterless_tail(self, start: ClassAxis, size: int) -> list[ClassAxis]:
        """Return the path back from `start` through parameterless operations on a single tensor."""
        path = [start]
        while True:
            axis = path[-1]
            node = axis.value.node
            if node is None or any(not value.from_input for value in node.inputs):
                return path
            steps = {before for _, before in self._step_back(axis, node, Trace(size))}
            if len(steps) != 1:
                return path
            path.append(steps.pop())


def _map_stride(inner: int, size: int, own_inner: int, other_inner: int, shared: int) -> int | None:
    """Return the stride of a class index on the other side of a link.

    None if the class index does not lie entirely within the shared factor.
    """
    if inner % own_inner or shared % (inner // own_inner * size):
        return None
    return inner // own_inner * other_inner


def _feature_axis(relation: DimRelation, operand: int, node: Node) -> ClassAxis | None:
    """Return what `operand` is multiplied with and summed over, if that depends on an input of the model."""
    for a, b in relation.contracted:
        for (mine, _), (other, dim) in ((a, b), (b, a)):
            if mine == operand and node.inputs[other].from_input:
                return ClassAxis(node.inputs[other], dim)
    return None


def source_name(value: Value) -> str:
    """Return the name of a model tensor, or of the first one a value is computed from; "" for constants."""
    if value.node is None:
        return min(value.names, default="")
    names = [
        source.name for node in ancestors([value]) for source in node.inputs if source.node is None and source.names
    ]
    return min(names, default="")
