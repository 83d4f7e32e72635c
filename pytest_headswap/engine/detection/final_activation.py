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
    traced = set(trace.nodes)
    return next(
        (
            node
            for node in trace.nodes
            if activation_of(node) and _is_over_classes(node, trace) and not _is_gate(node, trace, traced)
        ),
        None,
    )


def _is_over_classes(node: Node, trace: Trace) -> bool:
    if activation_of(node) == "sigmoid":
        return True
    output = node.outputs[0]
    dim = node.argument(1, "dim")
    return any(axis.value is output and axis.dim == dim % len(output.shape) for axis in trace.axes)


def _is_gate(node: Node, trace: Trace, traced: Collection[Node]) -> bool:
    """Return whether the result of an activation meets scores from the input without an activation of their own."""
    over_classes = {axis.value for axis in trace.axes}
    reached = set(node.outputs)
    stack = list(node.outputs)
    while stack:
        for user in stack.pop().users:
            if user not in traced:
                continue
            others = [value for value in user.inputs if value not in reached and value in over_classes]
            if any(value.from_input and not _is_bounded(value, traced) for value in others):
                return True
            added = [value for value in user.outputs if value not in reached]
            reached.update(added)
            stack += added
    return False


def _is_bounded(value: Value, traced: Collection[Node]) -> bool:
    """Return whether an activation lies between the start of the class dimension and a value."""
    seen: set[Node] = set()
    stack = [value]
    while stack:
        node = stack.pop().node
        if node is None or node in seen or node not in traced:
            continue
        if activation_of(node):
            return True
        seen.add(node)
        stack += node.inputs
    return False
