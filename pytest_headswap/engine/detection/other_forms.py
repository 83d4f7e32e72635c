"""Heads of other forms than a product with a weight: tables of class scores, thresholds, and a squeezed logit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from pytest_headswap.engine.dataflow.dim_tracer import ClassAxis, Projection, Trace, Tracer
from pytest_headswap.engine.dataflow.dims.links import normalize_dim
from pytest_headswap.engine.dataflow.graph import PARAMETER, Node, Value

_TABLES = ("embedding", "_embedding_bag", "_embedding_bag_forward_only")


def with_other_projections(trace: Trace, tracer: Tracer) -> Trace:
    """Return the trace of a dimension that no product sets, with what takes the place of a projection."""
    own = [axis for axis in trace.sources if axis.value.origin == PARAMETER]
    if trace.projections or trace.obstacles:
        return trace
    found = [item for axis in own for item in (*_table_lookups(axis, trace, tracer), *_thresholds(axis, trace, tracer))]
    return replace(trace, projections=found[:1])


def _table_lookups(axis: ClassAxis, trace: Trace, tracer: Tracer) -> Iterator[Projection]:
    """Yield the lookup of class scores for each token, if the scores of all tokens are combined: a bag of words."""
    for node in trace.nodes:
        name = node.name.split("::")[-1]
        if name not in _TABLES or node.inputs[0] is not axis.value or not node.inputs[1].from_input:
            continue
        scores = node.outputs[0]
        output = ClassAxis(scores, len(scores.shape) - 1)
        if name != "embedding" or any(tracer.is_reduced(scores, dim) for dim in range(1, len(scores.shape) - 1)):
            yield Projection(node, axis, ClassAxis(axis.value, 0), output)


def _thresholds(axis: ClassAxis, trace: Trace, tracer: Tracer) -> Iterator[Projection]:
    """Yield the sum of one logit and a threshold per class, as in ordinal regression."""
    node, operand = trace.merge_points.get(axis, (None, 0))
    if node is None or node.name not in ("aten::add", "aten::sub") or len(node.inputs) != 2:
        return
    if axis.value.shape != (trace.size,) or trace.size == 1:
        return
    score, output = node.inputs[1 - operand], node.outputs[0]
    for link in tracer.relation_of(node).links:
        if link.operand == operand and link.size == trace.size:
            dim = link.out_dim - len(output.shape) + len(score.shape)
            if dim >= 0 and score.shape[dim] == 1 and tracer.trace_back(ClassAxis(score, dim), 1).projections:
                yield Projection(node, axis, ClassAxis(score, dim), ClassAxis(output, link.out_dim))


class Squeezed(NamedTuple):
    """A class dimension of size 1 that forward removes before it returns the output.

    Attributes:
        axis: the dimension before it is removed.
        dim: where it would be in the output, if it were kept.
        removed_by: the operation.
        is_kept_when_longer: whether the operation keeps the dimension if its size is larger than 1.
    """

    axis: ClassAxis
    dim: int
    removed_by: Node
    is_kept_when_longer: bool


def squeezed_dims(output: Value) -> Iterator[Squeezed]:
    """Yield the dimensions of size 1 that are removed right before an output, such as by `fc(x).squeeze(-1)`."""
    value = output
    while value.node is not None:
        node, before = value.node, value.node.inputs[0] if value.node.inputs else value
        if sum(operand.from_input for operand in node.inputs) != 1 or not before.from_input:
            return
        if len(before.shape) != len(value.shape):
            yield from _removed(node, before, value)
            return
        if not node.pointwise:
            return
        value = before


def _removed(node: Node, before: Value, after: Value) -> Iterator[Squeezed]:
    name = node.name.split("::")[-1]
    ndim = len(before.shape)
    if name == "squeeze":
        given = node.argument(1, "dim", tuple(range(ndim)))
        dims = sorted(normalize_dim(dim, ndim) for dim in (given if isinstance(given, tuple) else (given,)))
        removed = [dim for dim in dims if before.shape[dim] == 1]
        for count, dim in enumerate(removed):
            yield Squeezed(ClassAxis(before, dim), dim - count, node, is_kept_when_longer=True)
    elif name == "select" and before.shape[normalize_dim(node.argument(1, "dim"), ndim)] == 1:
        dim = normalize_dim(node.argument(1, "dim"), ndim)
        yield Squeezed(ClassAxis(before, dim), dim, node, is_kept_when_longer=False)
    elif name in ("view", "_unsafe_view", "reshape") and before.shape[:-1] == after.shape and before.shape[-1] == 1:
        yield Squeezed(ClassAxis(before, ndim - 1), ndim - 1, node, is_kept_when_longer=False)
