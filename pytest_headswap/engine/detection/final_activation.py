"""Find the softmax or sigmoid behind a head: what turns its class scores into the output."""

from __future__ import annotations

from collections.abc import Collection

from pytest_headswap.engine.dataflow.dim_tracer import Trace
from pytest_headswap.engine.dataflow.graph import Node, Value

_ACTIVATIONS = {
    "_softmax": "softmax",
    "softmax": "softmax",
    "_log_softmax": "log_softmax",
    "log_softmax": "log_softmax",
    "sigmoid": "sigmoid",
}


def activation_of(node: Node) -> str | None:
    """Return the activation that an operation applies, such as `softmax`, or None."""
    return _ACTIVATIONS.get(node.name.split("::")[-1])


def final_activation(trace: Trace) -> Node | None:
    """Return the operation that makes the output of the traced class dimension an activation of scores, or None.

    Two uses do not count: a softmax over another dimension, as in attention, and a gate, whose result is combined with
    scores that no activation has bounded.
    """
    found = (node for node in trace.nodes if activation_of(node) and _is_over_classes(node, trace))
    return next((node for node in found if not _is_gate(node, trace)), None)


def _is_over_classes(node: Node, trace: Trace) -> bool:
    if activation_of(node) == "sigmoid":
        return True
    output = node.outputs[0]
    dim = node.argument(1, "dim")
    return any(axis.value is output and axis.dim == dim % len(output.shape) for axis in trace.axes)


def _is_gate(node: Node, trace: Trace) -> bool:
    """Return whether the result of an activation meets scores from the input without an activation of their own."""
    traced, over_classes = set(trace.nodes), {axis.value for axis in trace.axes}
    computed = _computed_from(node)
    met = {
        value
        for user in traced.intersection(user for value in computed for user in value.users)
        for value in over_classes.intersection(user.inputs) - computed
    }
    projections = {projection.node for projection in trace.projections}
    return any(_leads_back_to(projections, value, traced) for value in met)


def _computed_from(node: Node) -> set[Value]:
    """Return all values that depend on the result of an operation, with this result."""
    computed = set(node.outputs)
    stack = list(computed)
    while stack:
        added = {output for user in stack.pop().users for output in user.outputs} - computed
        computed |= added
        stack += added
    return computed


def _leads_back_to(projections: Collection[Node], value: Value, traced: Collection[Node]) -> bool:
    """Return whether a value depends on what a projection computes other than by an activation or by its shape."""
    seen: set[Node] = set()
    stack = [value]
    while stack:
        node = stack.pop().node
        if node is None or node in seen or node not in traced or activation_of(node) or node.name.endswith("_like"):
            continue
        if node in projections:
            return True
        seen.add(node)
        stack += node.inputs
    return False
