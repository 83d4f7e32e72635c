"""Find the tensors of a model that meet the input in each operation."""

from __future__ import annotations

from pytest_headswap.engine.dataflow.graph import Graph, Node, Value


def tensors_met(graph: Graph, *, shared: bool = True) -> dict[Node, list[str]]:
    """Return the parameters and buffers that, or whose derived values, meet the input in each operation.

    Without `shared`, values are left out that are derived once and meet it in several operations, such as a relative
    position bias of all blocks.
    """
    carried: dict[Value, set[tuple[str, Node]]] = {}  # the names, and the first operation that read each
    met: dict[Node, list[str]] = {}
    derived: dict[tuple[str, Node], list[Node]] = {}
    for node in graph.nodes:
        sources = [value for value in node.inputs if not value.from_input]
        names = [name for value in sources for name in value.names]
        inherited = {pair for value in sources for pair in carried.get(value, ())}
        if any(output.from_input for output in node.outputs):
            met[node] = names
            for pair in inherited:
                derived.setdefault(pair, []).append(node)
        else:
            carried.update(dict.fromkeys(node.outputs, inherited | {(name, node) for name in names}))
    for (name, _), nodes in derived.items():
        for node in nodes if shared or len(nodes) == 1 else ():
            met[node].append(name)
    return {node: names for node, names in met.items() if names}
