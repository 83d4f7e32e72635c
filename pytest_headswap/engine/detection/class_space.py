"""Find the layers that take classes in and give classes out, after the projection that sets the class dimension.

`y = fc(x); return y + refine(y)` has the class dimension at both ends of `refine`. A residual block at the end of a
backbone looks alike. The two are told apart by the class count that the model states or, if it states none, by shape:
one projection leads in, it narrows, the features before it start out wider, and few layers follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pytest_headswap.engine.dataflow.dim_tracer import ClassAxis, Projection, Trace, Tracer, source_name
from pytest_headswap.engine.dataflow.graph import BUFFER, PARAMETER, Node, Value, ancestors

_INDEX_OUTPUTS = {"argmax": 0, "max": 1}  # operations that pick a class, and which of their results is its index
_INDEX_STEPS = frozenset(
    (
        *("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "select", "slice", "expand", "transpose", "t"),
        *("permute", "cat", "stack", "clone", "detach", "alias", "_to_copy", "copy_", "unbind", "split"),
        "aliased_write",
    )
)
# Between two layers that form one linear map, as in calibrated logits. A network puts a nonlinearity there.
LINEAR_STEPS = _INDEX_STEPS | {"add", "sub", "mul", "div", "_softmax", "_log_softmax", "native_dropout"}
_LOOKUPS = ("embedding", "index", "index_select")
_MAX_READERS = 4
_MAX_HIDDEN = 200  # dimensions in a bottleneck


def mixing_sentence(layer: str) -> str:
    """Return why a fixed buffer that combines the classes set by a layer cannot follow their count."""
    return (
        f"it is a fixed buffer that mixes the classes set by {layer}, and its values for other classes are unknown: "
        "apply it outside the model, then swap the head"
    )


class ClassSpace:
    """What the class index of a traced output meets on its way forward.

    Attributes:
        trace: the trace, with everything that the class index meets. Its projections are those that read features.
        readers: names of the tensors of the model that the class index is multiplied with and summed over.
        entries: the projections that read features.
        tables: names of the tensors of the model that an arg-max over the classes selects from.
        fault: reason code, name and sentence, if a tensor cannot follow the class count.
        fixed_buffer: name of a buffer that takes classes in, so that it cannot follow their count.
        is_linear: whether the classes go through one more linear layer at the end, such as a calibration.
    """

    def __init__(self, trace: Trace, tracer: Tracer, *, is_stated: bool) -> None:
        self.trace = replace(
            trace,
            projections=list(trace.projections),
            sources=list(trace.sources),
            nodes=list(trace.nodes),
            axes=set(trace.axes),
            merge_points=dict(trace.merge_points),
        )
        self.readers: list[str] = []
        self.tables: list[str] = []
        self.fault: tuple[str, str, str] | None = None
        self.fixed_buffer = ""
        self._tracer = tracer
        self._is_stated = is_stated
        self.is_linear = False
        self._is_closed = True  # whether nothing computed from the classes is left over as features
        self._inner: dict[Node, None] = {}
        self._met: list[ClassAxis] = []
        self._visited: set[ClassAxis] = set()
        self._add_other_calls()
        explored = 0
        while explored < len(self.trace.projections):
            projection = self.trace.projections[explored]
            explored += 1
            self._add_classes_before(projection)
            self._explore([projection.output])
        self.entries = [item for item in self.trace.projections if not self._is_inner(item)]
        direct = [item for item in trace.projections if item in self.entries]
        self.trace.projections = direct or self.entries

    def _is_inner(self, projection: Projection) -> bool:
        return projection.node in self._inner or source_name(projection.weight.value) in self.readers

    def is_class_space(self) -> bool:
        """Return whether the dimension counts classes rather than the features of a residual backbone."""
        entries = self.entries
        if self._is_stated:
            return bool(entries)
        if not self._is_closed or len({source_name(entry.weight.value) for entry in entries}) != 1:
            return False
        widths = list(widths_before(entries[0], self._tracer))
        size = self.trace.size
        fits = entries[0].in_features > size and bool(widths) and widths[0] > size
        return fits and len(self.readers) <= min(_MAX_READERS, len(widths) + 1)

    def leads_elsewhere(self, output: Value) -> bool:
        """Return whether layers read the output, and another output of its width depends on them.

        The output then holds the features before a head, even if the model states that many classes.
        """
        after = {node for node in self._inner.keys() - ancestors([output]) if output.node in ancestors(node.inputs)}
        others = (value for value in self._tracer.output_values if value is not output)
        return any(self.trace.size in value.shape[1:] and not after.isdisjoint(ancestors([value])) for value in others)

    def add_what_it_meets(self) -> None:
        """Add to the trace every tensor of the model that shares the class dimension somewhere."""
        own = {source_name(item.weight.value) for item in self.trace.projections}
        own |= {source_name(value) for node in self._inner for value in node.inputs if not value.from_input}
        self.trace.nodes += self._inner
        for out in self._met:
            if out not in self.trace.axes:
                met = self._tracer.trace_back(out, self.trace.size)
                if {source_name(item.weight.value) for item in met.projections} <= own:
                    self._add(met)

    def _add(self, met: Trace) -> None:
        self.trace.axes |= met.axes
        self.trace.nodes += met.nodes
        self.trace.sources += [axis for axis in met.sources if axis not in self.trace.sources]
        self.trace.merge_points.update(met.merge_points)

    def _add_other_calls(self) -> None:
        """Add the calls of a projection that lead elsewhere, such as earlier steps whose result is fed back.

        Leave out the calls that read another head: what a shared layer does for another output.
        """
        before = ancestors(self.trace.nodes[0].outputs) if self.trace.projections else set()
        for projection in list(self.trace.projections):
            weight = self._tracer.trace_back(projection.weight, self.trace.size).sources
            for source in weight:
                for node in self._tracer.uses_with_input(source.value):
                    if node not in self.trace.nodes and (node in before or not self._reads_classes(node, before)):
                        self._add_call(node, weight)

    def _reads_classes(self, node: Node, before: set[Node]) -> bool:
        new = ancestors(node.inputs) - before
        return any(self.trace.size in value.shape[1:] for item in new for value in item.outputs if value.from_input)

    def _add_call(self, node: Node, weight: list[ClassAxis]) -> None:
        size = self.trace.size
        for link in self._tracer.relation_of(node).links:
            axis = ClassAxis(node.inputs[link.operand], link.in_dim)
            if not axis.value.from_input and self._tracer.trace_back(axis, size).sources == weight:
                call = self._tracer.trace_back(ClassAxis(node.outputs[link.output], link.out_dim), size)
                self.trace.projections += [item for item in call.projections if item.node is node]
                self._add(call)

    def _add_classes_before(self, projection: Projection) -> None:
        """Add the trace of the features of a projection if those are classes too, as in a recurrence on the logits."""
        features, size = projection.features, self.trace.size
        if projection.in_features != size or features in self.trace.axes:
            return
        before = self._tracer.trace_back(features, size)
        weights = {source_name(item.weight.value) for item in before.projections}
        own = {source_name(item.weight.value) for item in self.trace.projections}
        is_map = not weights & own and is_linear(before)
        if before.projections and not before.from_input and (weights & own or is_map):
            self.is_linear = self.is_linear or is_map
            nodes = {item.node for item in self.trace.projections}
            self.trace.projections += [item for item in before.projections if item.node not in nodes]
            self._add(before)

    def _explore(self, stack: list[ClassAxis]) -> None:
        """Follow the class index forward, through the layers that take it in and give it out."""
        while stack and (self._is_stated or len(self.readers) <= _MAX_READERS):
            axis = stack.pop()
            if axis in self._visited:
                continue
            self._visited.add(axis)
            for node in self._live_users(axis):
                self._follow_picked(axis, node)
                for partner, results in (*self._products(axis, node), *self._summed_products(axis, node)):
                    self._inner[node] = None
                    self._add_sources(partner, self.readers)
                    for out in results:
                        if out.value.shape[out.dim] == self.trace.size:
                            stack.append(out)
                            self._met.append(out)
                        else:
                            returned = self._explore_hidden(out)
                            stack += returned
                            self._is_closed = self._is_closed and bool(returned)
                for out in self._tracer.step_forward(axis, node, self.trace.size):
                    stack.append(out)
                    if len(node.inputs) > 1:
                        self._met.append(out)

    def _explore_hidden(self, hidden: ClassAxis) -> list[ClassAxis]:
        """Return the class dimensions that a dimension inside class space, such as a bottleneck, leads to.

        Return nothing if it leads to an output.
        """
        stack, visited, returned = [hidden], set[ClassAxis](), list[ClassAxis]()
        while stack:
            axis = stack.pop()
            if axis in visited:
                continue
            visited.add(axis)
            if axis.value in self._tracer.output_values or len(visited) > _MAX_HIDDEN:
                return []
            for node in self._live_users(axis):
                for _, results in self._products(axis, node):
                    self._inner[node] = None
                    for out in results:
                        (returned if out.value.shape[out.dim] == self.trace.size else stack).append(out)
                stack += self._tracer.step_forward(axis, node, axis.value.shape[axis.dim])
        self._met += returned
        return returned

    def _live_users(self, axis: ClassAxis) -> Iterator[Node]:
        return (node for node in axis.value.users if node in self._tracer.live_nodes)

    def _products(self, axis: ClassAxis, node: Node) -> Iterator[tuple[ClassAxis, list[ClassAxis]]]:
        """Yield each tensor of the model that a dimension is multiplied with and summed over, and the dimensions of the
        results that it sets.
        """
        for partner in self._tracer.contracted_with(axis, node):
            if not partner.value.from_input and source_name(partner.value):
                links = self._tracer.relation_of(node).links
                others = {(x.output, x.out_dim) for x in links if node.inputs[x.operand].from_input}
                set_by = {(x.output, x.out_dim) for x in links if node.inputs[x.operand] is partner.value}
                yield partner, [ClassAxis(node.outputs[output], dim) for output, dim in sorted(set_by - others)]

    def _summed_products(self, axis: ClassAxis, node: Node) -> Iterator[tuple[ClassAxis, list[ClassAxis]]]:
        """Yield the same for products, or other operations element by element, that are summed over later."""
        links = self._tracer.relation_of(node).links if node.pointwise and len(node.inputs) > 1 else []
        for own in [x for x in links if node.inputs[x.operand] is axis.value and x.in_dim == axis.dim]:
            out = node.outputs[own.output]
            for link in [x for x in links if x.out_dim == own.out_dim and x.size > 1]:
                partner = node.inputs[link.operand]
                if partner.from_input or not source_name(partner) or not self._tracer.is_reduced(out, own.out_dim):
                    continue
                others = [x for x in links if node.inputs[x.operand].from_input]
                kept = {x.out_dim for x in others if self._tracer.begins(ClassAxis(node.inputs[x.operand], x.in_dim))}
                set_by = {x.out_dim for x in links if x.operand == link.operand and x.size > 1}
                results = [ClassAxis(out, dim) for dim in sorted(set_by - kept)]
                if results:  # otherwise the tensor weighs the classes, and has their count, but leads nowhere else
                    yield ClassAxis(partner, link.in_dim), results

    def _add_sources(self, axis: ClassAxis, names: list[str]) -> None:
        for source in self._tracer.trace_back(axis, self.trace.size).sources:
            name = source.value.name
            if source.value.origin == BUFFER:
                self.fixed_buffer = name
            if source.value.origin in (PARAMETER, BUFFER) and source not in self.trace.sources:
                self.trace.sources.append(source)
            if source.value.origin in (PARAMETER, BUFFER) and name not in names:
                names.append(name)

    def _follow_picked(self, axis: ClassAxis, node: Node) -> None:
        """Follow the classes that an arg-max picks to the tables that they select from."""
        position = _INDEX_OUTPUTS.get(node.name.split("::")[-1], len(node.outputs))
        reduced = self._tracer.relation_of(node).reduced
        if position >= len(node.outputs) or (0, axis.dim) not in reduced:
            return
        stack, visited = [node.outputs[position]], set[Value]()
        while stack:
            value = stack.pop()
            if value in visited:
                continue
            visited.add(value)
            for user in value.users:
                name = user.name.split("::")[-1]
                if name in _INDEX_STEPS:
                    stack += user.outputs
                elif name in _LOOKUPS and not user.inputs[0].from_input and user.inputs[0] is not value:
                    dim = int(user.argument(1, "dim")) if name == "index_select" else 0
                    self._add_table(ClassAxis(user.inputs[0], dim), user)

    def _add_table(self, rows: ClassAxis, node: Node) -> None:
        count, name = rows.value.shape[rows.dim], source_name(rows.value)
        if name and count == self.trace.size:
            self.trace.nodes.append(node)
            self._add_sources(rows, self.tables)
        elif name:
            sentence = f"the class that an arg-max picks selects a row of it, and it has {count} rows"
            self.fault = ("unsupported_layer", name, f"{sentence} for {self.trace.size} classes")


def is_linear(trace: Trace) -> bool:
    """Return whether only linear steps and a softmax lie between one projection and the traced dimension."""
    nodes = {projection.node for projection in trace.projections}
    names = {node.name.split("::")[-1].rstrip("_") for node in trace.nodes if node not in nodes}
    weights = {source_name(item.weight.value) for item in trace.projections}
    return len(weights) == 1 and names <= LINEAR_STEPS


def widths_before(entry: Projection, tracer: Tracer) -> Iterator[int]:
    """Yield the width that each product of features with a weight gives its result, in execution order."""
    nodes = [node for node in ancestors([entry.features.value]) if node.outputs]
    for node in sorted(nodes, key=lambda node: tracer.position(node.outputs[0])):
        relation = tracer.relation_of(node)
        for operand in {operand for pair in relation.contracted for operand, _ in pair}:
            if not node.inputs[operand].from_input and source_name(node.inputs[operand]):
                yield from (link.size for link in relation.links if link.operand == operand and link.size > 1)
