"""Trace an output dimension back to the tensors that set its size, and forward to the operations that use it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property

from pytest_headswap.engine.dataflow.assembled import Selected, parts_of, reassembled_dim, selections, selections_within
from pytest_headswap.engine.dataflow.dim_flow import DimFlow, map_stride
from pytest_headswap.engine.dataflow.dims.links import DimRelation
from pytest_headswap.engine.dataflow.dims.views import WRITTEN
from pytest_headswap.engine.dataflow.graph import INPUT, Node, Value, ancestors
from pytest_headswap.engine.dataflow.trace import ClassAxis, Projection, Trace

__all__ = ["ClassAxis", "Projection", "Trace", "Tracer", "source_name"]


_Origin = tuple[int, tuple[ClassAxis, ...]]
_NO_DIM = -1  # for a part of a dimension that is assembled only later


class Tracer(DimFlow):
    """Trace dimensions through one recorded graph."""

    @cached_property
    def _positions(self) -> dict[Node, int]:
        return {node: position for position, node in enumerate(self._nodes)}

    def position(self, value: Value) -> int:
        """Return the position in execution order of the operation that computed a value; -1 for a source."""
        return self._positions.get(value.node, -1) if value.node is not None else -1

    def calls(self, module: str) -> list[tuple[int, Node]]:
        """Return the operations that a leaf module ran, with their positions."""
        return [(position, node) for position, node in enumerate(self._nodes) if node.module == module]

    def trace_back(self, start: ClassAxis, size: int, *, through_inputs: bool = False) -> Trace:
        """Trace the class index of `start` back to where it begins.

        Stop early at an input of the model, unless `through_inputs`.
        """
        trace = Trace(size)
        stack: list[tuple[ClassAxis, tuple[Node, int] | None]] = [(start, None)]
        while stack and (through_inputs or not trace.from_input):
            axis, merge_point = stack.pop()
            if axis in trace.axes:
                continue
            trace.axes.add(axis)
            if axis.value.node is None:
                trace.sources.append(axis)
                trace.from_input = trace.from_input or axis.value.origin == INPUT
                if merge_point is not None:
                    trace.merge_points[axis] = merge_point
                continue
            trace.nodes.append(axis.value.node)
            for node, operand, before in self._step_back(axis, axis.value.node, trace):
                is_merge_point = axis.value.from_input and not before.value.from_input
                stack.append((before, (node, operand) if is_merge_point else merge_point))
        for (node, dim), traced in trace.parts.items():
            if len(traced) < len(node.outputs):
                _add_obstacle(trace, node, dim, self.relation_of(node).partial[min(traced), dim])
        for node, dim in trace.written if not trace.projections else ():
            _add_obstacle(trace, node, dim, WRITTEN)
        return trace

    def _step_back(self, axis: ClassAxis, node: Node, trace: Trace) -> Iterator[tuple[Node, int, ClassAxis]]:
        """Yield the operands that the class index runs over before a node: the node, the operand's index, its axis."""
        parts = parts_of(node, axis.dim) if axis.inner == 1 else []
        if whole := reassembled_dim(node, parts) or _table_looked_up(axis, node):
            yield node, 0, ClassAxis(*whole)
            return
        selected = self._selected_for_parts(parts)
        if selected:
            yield from self._step_back_to_selected(axis, selected, trace)
            return
        relation = self.relation_of(node)
        links = [x for x in relation.links if x.output == axis.value.index and x.out_dim == axis.dim]
        obstacle = relation.partial.get((axis.value.index, axis.dim))
        if obstacle in (None, WRITTEN) and (cut := self._partly_assembled(parts)):
            _add_cut(trace, "composite", f"is assembled from parts of a longer one ({node.name})", [cut])
            return
        if obstacle and relation.equal_parts == axis.dim:
            trace.parts.setdefault((node, axis.dim), set()).add(axis.value.index)
        elif obstacle == WRITTEN:
            trace.written.append((node, axis.dim))
        elif obstacle:
            _add_obstacle(trace, node, axis.dim, obstacle)
        if not links and not obstacle:
            trace.ends.append(node)
        followed = False
        for link in links:
            inner = map_stride(axis.inner, trace.size, link.out_inner, link.in_inner, link.size)
            if inner is not None:
                followed = True
                before = ClassAxis(node.inputs[link.operand], link.in_dim, inner)
                features = _feature_axis(relation, link.operand, node) or self._summed_features(axis, link.operand)
                if features and not before.value.from_input:
                    self._add_projection(Projection(node, before, features, axis), trace)
                yield node, link.operand, before
        if links and not followed:
            trace.obstacles.append(("composite", f"the dimension is merged from several dimensions ({node.name})"))
            trace.partial_sources += [
                ("composite", ClassAxis(node.inputs[link.operand], link.in_dim)) for link in links
            ]

    def _add_projection(self, projection: Projection, trace: Trace) -> None:
        if not source_name(projection.weight.value):
            trace.unregistered.append(projection.weight)
        elif trace.size > 1 or self.begins(projection.weight):  # size 1 is not unique
            trace.projections.append(projection)

    def _selected_for_parts(self, parts: Sequence[Value]) -> list[Selected]:
        """Return the dimensions of model tensors whose indices the parts of an assembled dimension select.

        Each is given as it meets the input in the first part. Every part selects another index, and together they
        select all of them.
        """
        if len(parts) < 2:
            return []
        found: dict[ClassAxis, dict[int, Selected]] = {}
        for part, selected in enumerate(selections(parts)):
            for item in selected:
                for source in self.trace_back(ClassAxis(item.value, item.dim), len(parts)).sources:
                    if source.value.names:
                        found.setdefault(source, {})[part] = item
        everything = set(range(len(parts)))
        return [
            item
            for by_part in found.values()
            if by_part.keys() == everything == {item.position for item in by_part.values()}
            for item in by_part.values()
        ]

    def _partly_assembled(self, parts: Sequence[Value]) -> ClassAxis | None:
        """Return a dimension set by a projection that each part takes an index of, if some index is left out.

        Several views of one dimension count as one.
        """
        axes: dict[_Origin, ClassAxis] = {}
        taken: dict[_Origin, dict[int, set[int]]] = {}
        for part, value in enumerate(parts) if len(parts) > 1 else ():
            for base, dim, index in selections_within(value, lambda node: not self.relation_of(node).contracted):
                axis, size = ClassAxis(base, dim), base.shape[dim]
                weights = tuple(item.weight for item in self.trace_back(axis, size).projections)
                axes.setdefault((size, weights), axis)
                taken.setdefault((size, weights), {}).setdefault(part, set()).add(index)
        for (size, weights), by_part in taken.items():
            if weights and len(by_part) == len(parts) and len(set().union(*by_part.values())) < size:
                return axes[size, weights]
        return None

    def _step_back_to_selected(
        self, axis: ClassAxis, selected: list[Selected], trace: Trace
    ) -> Iterator[tuple[Node, int, ClassAxis]]:
        for item in selected:
            trace.nodes.append(item.node)
            before = ClassAxis(item.value, item.dim)
            features = _feature_axis(self.relation_of(item.node), item.operand, item.node)
            features = features or self._summed_features(ClassAxis(item.node.outputs[0], _NO_DIM), item.operand)
            if features is not None and item.position == 0:
                trace.projections.append(Projection(item.node, before, features, axis))
            yield item.node, item.operand, before

    def find_consumer(self, start: ClassAxis, size: int) -> str | None:
        """Return the name of a tensor of the model that consumes the class index of `start`, or None.

        Only operations that an output depends on count. The class index of a head ends in the outputs; that of a
        backbone layer is summed over with the weights of the next layer.
        """
        for axis, node in self._trace_forward(start, size, lambda node: node in self.live_nodes):
            for partner in self.contracted_with(axis, node):
                name = "" if partner.value.from_input else source_name(partner.value)
                if name:
                    return name
        return None

    def compared_features(self, start: ClassAxis, size: int) -> Iterator[ClassAxis]:
        """Yield the dimensions of other features that the class index of `start` is multiplied with and summed over."""
        for axis, node in self._trace_forward(start, size, lambda node: node in self.live_nodes):
            yield from (partner for partner in self.contracted_with(axis, node) if partner.value.from_input)

    def co_factors(self, sources: list[ClassAxis], size: int) -> list[ClassAxis]:
        """Return the tensors of the model that are multiplied with the class index of `sources` to compute the weight.

        Reparametrised layers have such tensors, for example the singular vector of spectral norm.
        """
        factors: dict[ClassAxis, None] = {}
        for source in sources:
            for axis, node in self._trace_forward(
                source, size, lambda node: not any(v.from_input for v in node.inputs)
            ):
                for partner in self.contracted_with(axis, node):
                    factors.update(
                        dict.fromkeys(item for item in self.trace_back(partner, size).sources if item.value.names)
                    )
        return [axis for axis in factors if axis not in sources]

    def is_batched(self, projection: Projection) -> bool:
        """Return whether the features have the dimension as well: the product then runs once for each entry of it."""
        return any(
            projection.node.inputs[link.operand] is projection.features.value and link.out_dim == projection.output.dim
            for link in self.relation_of(projection.node).links
        )

    def weights_of(self, node: Node) -> set[str]:
        """Return the names of the model's tensors that an operation multiplies features with and sums over."""
        operands = {operand for pair in self.relation_of(node).contracted for operand, _ in pair}
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
            if node in visited or node not in self.live_nodes:
                continue
            visited.add(node)
            if any(output.from_input for output in node.outputs):
                uses.append(node)
            else:
                stack.extend(consumer for output in node.outputs for consumer in output.users)
        return uses

    def uses_of(self, names: Collection[str]) -> list[Node]:
        """Return the operations where the tensors with these names, or what is computed from them, meet the input."""
        sources = {value for node in self._nodes for value in node.inputs if not set(value.names).isdisjoint(names)}
        return list(dict.fromkeys(node for value in sources for node in self.uses_with_input(value)))

    def parameterless_tail(self, start: ClassAxis, size: int) -> list[ClassAxis]:
        """Return the path back from `start` through parameterless operations on a single tensor."""
        path = [start]
        while True:
            axis = path[-1]
            node = axis.value.node
            if node is None or any(not value.from_input for value in node.inputs):
                return path
            steps = {before for _, _, before in self._step_back(axis, node, Trace(size))}
            if len(steps) != 1:
                return path
            path.append(steps.pop())


def _add_obstacle(trace: Trace, node: Node, dim: int, obstacle: str) -> None:
    reason = "concatenated" if node.name.endswith("cat") else "composite"
    _add_cut(trace, reason, f"{obstacle} ({node.name})", [ClassAxis(x, dim) for x in node.inputs if len(x.shape) > dim])


def _add_cut(trace: Trace, reason: str, what: str, before: Iterable[ClassAxis]) -> None:
    trace.is_cut |= reason == "composite"
    trace.obstacles.append((reason, f"the dimension {what}"))
    trace.partial_sources += [(reason, axis) for axis in before]


def _table_looked_up(axis: ClassAxis, node: Node) -> tuple[Value, int] | None:
    """Return the table whose rows a dimension all runs over, such as label embeddings looked up by `arange`."""
    if node.name != "aten::embedding" or axis.value.from_input or axis[1:] != (0, 1):
        return None
    table, indices = node.inputs
    return (table, 0) if indices.shape == table.shape[:1] else None


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
