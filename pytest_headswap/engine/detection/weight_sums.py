"""Read how forward computes the weight of a head, such as from a matrix and its low-rank update."""

from __future__ import annotations

from pytest_headswap.engine.dataflow.dim_tracer import Projection, Trace, Tracer
from pytest_headswap.engine.dataflow.graph import PARAMETER, Node, Value
from pytest_headswap.engine.detection.candidates import Candidate

ADDITIVE = frozenset(("add", "sub"))
_SUMS = ADDITIVE | {"mm", "bmm", "matmul"}
_KEEPS_ZERO = _SUMS | {
    *("mul", "div", "neg", "t", "transpose", "permute", "view", "_unsafe_view", "reshape", "expand", "squeeze"),
    *("unsqueeze", "clone", "detach", "alias", "_to_copy", "select", "slice", "cat", "stack", "native_dropout"),
    *("abs", "relu", "sum", "mean", "pow", "sqrt"),
    *("_weight_norm_interface", "linalg_vector_norm", "norm", "clamp", "clamp_min", "maximum", "rsqrt"),  # of a cosine
}


def last_name(node: Node) -> str:
    """Return the name of an operation without namespace, the same for its in-place form."""
    return node.name.split("::")[-1].rstrip("_")


def summands_of_weight(candidate: Candidate, tracer: Tracer) -> set[Value]:
    """Return the parameters whose sum is the weight of a projection."""
    found: set[Value] = set()
    for projection in candidate.trace.projections:
        trace = tracer.trace_back(projection.weight, candidate.trace.size)
        if _joins(trace) <= _SUMS:
            found.update(axis.value for axis in trace.sources if axis.value.origin == PARAMETER)
    return found


def changes_zero(projection: Projection, tracer: Tracer, size: int) -> str:
    """Return the operation that may give a weight other than 0 although the head's tensors are 0; "" if none does."""
    trace = tracer.trace_back(projection.weight, size)
    traced = {axis.value for axis in trace.axes}
    is_mixed = not _joins(trace) <= _SUMS
    for node in trace.nodes:
        name = last_name(node)
        is_sum = name in ADDITIVE and len(node.inputs) > 1
        if name not in _KEEPS_ZERO or (is_sum and (is_mixed or not traced.issuperset(node.inputs))):
            return node.name
    return ""


def _joins(trace: Trace) -> set[str]:
    return {last_name(node) for node in trace.nodes if len(node.inputs) > 1}
