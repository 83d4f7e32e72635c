"""Find inputs of a model that have the class count as a size, such as one-hot labels. A swap cannot change them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from pytest_headswap.engine.dataflow.dim_tracer import ClassAxis, Tracer, source_name
from pytest_headswap.engine.dataflow.graph import INPUT, Graph, Value

_LOOKUPS = ("embedding", "index", "index_select")
_VIEWS = ("view", "_unsafe_view", "unsqueeze", "squeeze", "expand", "_to_copy", "alias", "clone", "clamp")


class ClassInput(NamedTuple):
    """An input whose values stand for `size` classes, and the tensor of the model that reads them."""

    name: str
    size: int
    reader: str


def inputs_of_size(graphs: Sequence[Graph], tracers: Sequence[Tracer], sizes: Collection[int]) -> Iterator[ClassInput]:
    """Yield the inputs, other than the first, of which a tensor of the model reads as many entries as a head has."""
    found: dict[ClassInput, None] = {}
    for graph, tracer in zip(graphs, tracers, strict=True):
        for value in graph.inputs[1:]:
            for dim, size in enumerate(value.shape):
                if size in sizes and size > 1 and (reader := tracer.find_consumer(ClassAxis(value, dim), size)):
                    found[ClassInput(value.name, size, reader)] = None
            for table in _tables(value):
                if table.shape[0] in sizes and table.shape[0] > 1:
                    found[ClassInput(value.name, table.shape[0], source_name(table))] = None
    yield from found


def inputs_in_outputs(graphs: Sequence[Graph], tracers: Sequence[Tracer]) -> Iterator[str]:
    """Yield a sentence for each output dimension that an input gives its size, although a layer sets it as well."""
    for graph, tracer in zip(graphs, tracers, strict=True):
        for label, value in graph.outputs.items():
            for dim in reversed(range(len(value.shape))):
                trace = tracer.trace_back(ClassAxis(value, dim), value.shape[dim], through_inputs=True)
                names = [axis.value.name for axis in trace.sources if axis.value.origin == INPUT]
                if names and trace.projections:
                    yield (
                        f"dimension {dim} of {label} has size {value.shape[dim]} in {names[0]} too, which is combined "
                        f"with the result of {source_name(trace.projections[0].weight.value)}. If it counts classes, "
                        "combine the two outside the model, or leave the input out of example_inputs"
                    )


def _tables(index: Value) -> Iterator[Value]:
    """Yield the tensors of the model in which the values of an input select rows."""
    stack, visited = [index], set[Value]()
    while stack:
        value = stack.pop()
        if value in visited:
            continue
        visited.add(value)
        for node in value.users:
            name = node.name.split("::")[-1]
            if name in _LOOKUPS and not node.inputs[0].from_input and value in node.inputs[1:]:
                if source_name(node.inputs[0]):
                    yield node.inputs[0]
            elif name in _VIEWS:
                stack += node.outputs
