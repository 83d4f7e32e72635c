"""Find outputs that may hold the classes although no head was found for them.

If such an output stands next to one with a head, that head may be another one: a critic, a value or a box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_headswap._text import join_first
from pytest_headswap.engine.dataflow.dim_tracer import ClassAxis, Tracer, source_name
from pytest_headswap.engine.dataflow.graph import Graph, Node, Value, ancestors
from pytest_headswap.engine.detection.candidates import Candidate, TensorDims
from pytest_headswap.engine.detection.describe import DetectedHead
from pytest_headswap.engine.errors import HeadSwapError

_FEATURES = frozenset(("output_is_backbone", "no_layer_sets_output"))


def unresolved_output_error(
    name: str,
    graphs: Sequence[Graph],
    tracers: Sequence[Tracer],
    candidates: Sequence[Candidate],
    detected: Sequence[DetectedHead],
) -> HeadSwapError | None:
    """Return an error if an output without a head may hold the classes, or None.

    The last product with a weight before such an output is no head and computes nothing that a head reads. At least
    one dimension of the output is longer than 1, does not come from the inputs, and has another size than the heads.
    """
    counts = {item.head.num_classes for item in detected}
    own = {tensor for item in detected for tensor in item.head.tensors}
    for graph, tracer in zip(graphs, tracers, strict=True):
        mine = [candidate for candidate in candidates if candidate.output.training == graph.training]
        shown = {candidate.output.label for candidate in mine if candidate.rejection_cause is None}
        features = {
            candidate.output.label
            for candidate in mine
            if candidate.rejection_cause is not None and candidate.rejection_cause.reason in _FEATURES
        }
        known: set[Node] | None = None  # the products of heads, and all operations before them
        for label, value in graph.outputs.items():
            if label in shown or label in features or 0 in value.shape or not _has_own_dim(value, tracer, counts):
                continue
            if known is None:
                accepted = (candidate for candidate in mine if candidate.rejection_cause is None)
                known = ancestors(item.node.outputs[0] for one in accepted for item in one.trace.projections)
            products = dict(_last_products(value, tracer))
            if not products or not known.isdisjoint(products) or not own.isdisjoint(products.values()):
                continue
            causes = (one.rejection_cause for one in mine if one.output.label == label)
            cause = next((cause for cause in causes if cause is not None), None)
            sentence = f" ({cause.sentence})" if cause is not None else ""
            weights = join_first(sorted({weight for weight in products.values() if weight})) or "an unnamed tensor"
            others = join_first([f"{item.name!r} ({item.head.num_classes})" for item in detected])
            return HeadSwapError(
                cause.reason if cause is not None else "composite" if any(products.values()) else "unsupported_layer",
                f"{name}: {label} may hold the classes, but its width cannot be changed. It is computed with {weights}"
                f"{sentence}. The heads that were found set other outputs: {others}. Pass head=PATH to select one",
            )
    return None


def _has_own_dim(value: Value, tracer: Tracer, counts: set[int]) -> bool:
    """Return whether a dimension longer than 1 does not come from the inputs, and none has the size of a head."""
    sizes = [
        size
        for dim, size in enumerate(value.shape)
        if size > 1 and not tracer.trace_back(ClassAxis(value, dim), size).from_input
    ]
    return bool(sizes) and counts.isdisjoint(sizes)


def _last_products(value: Value, tracer: Tracer) -> Iterator[tuple[Node, str]]:
    """Yield the last products of features with another tensor before a value, and the name of the tensor.

    The name is empty if the tensor is not the model's. Nothing comes from a product of two features, as in attention.
    """
    visited: set[Node] = set()
    stack = [value]
    while stack:
        node = stack.pop().node
        if node is None or node in visited:
            continue
        visited.add(node)
        operands = {operand for pair in tracer.relation_of(node).contracted for operand, _ in pair}
        factors = [node.inputs[operand] for operand in sorted(operands)]
        if not factors:
            stack += [before for before in node.inputs if before.from_input]
        for factor in factors if any(factor.from_input for factor in factors) else ():
            if not factor.from_input:
                yield node, source_name(factor)


def written_counts(
    graphs: Sequence[Graph],
    tracers: Sequence[Tracer],
    candidates: Sequence[Candidate],
    detected: Sequence[DetectedHead],
) -> dict[tuple[bool, str, int], TensorDims]:
    """Return the output dimensions that have the size of a head only because forward says so, as in `one_hot`."""
    known = {(item.output.training, item.output.label, item.output.dim) for item in candidates}
    heads = {item.head.num_classes: item.tensors[0] for item in detected if item.tensors}
    found: dict[tuple[bool, str, int], TensorDims] = {}
    for graph, tracer in zip(graphs, tracers, strict=True):
        for label, value in graph.outputs.items():
            for dim, size in enumerate(value.shape):
                if size in heads and size > 1 and (graph.training, label, dim) not in known:
                    trace = tracer.trace_back(ClassAxis(value, dim), size)
                    if not (trace.from_input or trace.sources or trace.obstacles) and value.from_input:
                        found[graph.training, label, dim] = frozenset(((heads[size].names[0], None),))
    return found
