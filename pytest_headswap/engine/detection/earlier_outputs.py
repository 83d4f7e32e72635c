"""Find classes that a layer reads to compute another output.

`z = fc(x); return z, risk(z)` returns classes and a number computed from them. `h = body(x); return h, fc(h)` returns
features and the classes computed from them. The steps around the first output and the widths tell them apart, if
anything does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pytest_headswap._text import join_first
from pytest_headswap.engine.dataflow.dim_tracer import Projection, Tracer, source_name
from pytest_headswap.engine.dataflow.graph import INPUT, Node, ancestors
from pytest_headswap.engine.detection.candidates import Candidate, accept_consumed
from pytest_headswap.engine.detection.class_space import LINEAR_STEPS, is_linear, widths_before

_AFTER_CLASSES = frozenset(("mean", "sum", "neg", "sigmoid", "log", "exp", "clamp", "clamp_min"))
_RECTIFIERS = frozenset(("relu", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish"))
_MAX_BETWEEN = 2
"""Number of layers that may lie between classes and a layer that computes another output from them."""


def accept_earlier_classes(candidates: Sequence[Candidate], tracer: Tracer, declared: int | None) -> None:
    """Accept each rejected candidate that may hold the classes from which the model computes another output.

    Only linear steps or probabilities follow its projection. No norm and no rectifier precede the layers that read it,
    and these are few. It is narrower than the features before it, unless a softmax follows or the other output is a
    single number. Each head that computes a single number from it is then marked as behind it.
    """
    heads = [one for one in candidates if one.rejection_cause is None or one.output.is_squeezed]
    for candidate in candidates:
        size = candidate.output.size
        later = heads_computed_from(candidate, heads, tracer) if candidate.consumed_space is not None else []
        if not later or declared not in (None, size) or not _is_linear(candidate, tracer):
            continue
        widths = list(widths_before(candidate.trace.projections[0], tracer))
        is_likely = candidate.holds_probabilities or max(widths, default=0) > size
        sizes = {other.output.size for other in later}
        if not is_likely and not widths and sizes != {1}:
            continue  # an embedding of the input
        step = _step_of_features(candidate, tracer)
        if step == "a norm" and sizes != {1}:
            continue
        if step or (not is_likely and sizes != {1}):
            why = f"{step} follows" if step else "they are not narrower than the features before"
            for other in later:
                other.caution = (
                    f"it reads {candidate.output.label}, another output, whose {size} entries are taken for features "
                    f"because {why}. If they are classes, set "
                    "model.num_classes to their number"
                )
            continue
        accept_consumed(candidate, tracer)
        readers = [other for other in later if other.output.size == 1 < size]
        if is_likely:
            for other in readers:
                other.is_behind = True
            if readers and not candidate.holds_probabilities and declared is None:
                names = sorted({source_name(item.weight.value) for one in readers for item in one.trace.projections})
                candidate.caution = (
                    f"its {size} results are taken for classes, and {join_first(names)} for a layer that computes a "
                    "number from them. If they are features, pass head=PATH with the layer that is the head"
                )


def _is_linear(candidate: Candidate, tracer: Tracer) -> bool:
    """Return whether linear steps or a softmax follow the projections, as in an ensemble or a single layer.

    None of the projections reads another one's result, and nothing but vectors is added to their results.
    """
    trace = candidate.trace
    weights = {axis for item in trace.projections for axis in tracer.trace_back(item.weight, trace.size).sources}
    if any(sum(size > 1 for size in axis.value.shape) > 1 for axis in trace.sources if axis not in weights):
        return False  # a table, such as learned queries
    own = {projection.node for projection in trace.projections}
    names = {node.name.split("::")[-1].rstrip("_") for node in trace.nodes if node not in own}
    before = ancestors(projection.features.value for projection in trace.projections)
    return names <= LINEAR_STEPS | _AFTER_CLASSES and own.isdisjoint(before)


def _step_of_features(candidate: Candidate, tracer: Tracer) -> str:
    """Return "a norm" or "an activation" if one follows the projections before another layer does, or "".

    Features go through such steps, and classes do not.
    """
    visited: set[Node] = set()
    stack = [output for node in _calls(candidate, tracer) for output in node.outputs]
    while stack:
        for node in stack.pop().users:
            if node in visited or node not in tracer.live_nodes or tracer.weights_of(node):
                continue
            if "norm" in node.name:
                return "a norm"
            if node.name.split("::")[-1].rstrip("_") in _RECTIFIERS:
                return "an activation"
            visited.add(node)
            stack += node.outputs
    return ""


def accept_shared(candidates: Sequence[Candidate], tracer: Tracer) -> None:
    """Accept each rejected candidate that only layers set which set the classes of another output too."""
    shared = {
        item.node
        for one in candidates
        if one.rejection_cause is None and one.inner_names
        for item in one.trace.projections
    }
    for candidate in candidates:
        projections = candidate.trace.projections
        if candidate.consumed_space is not None and projections and shared.issuperset(x.node for x in projections):
            accept_consumed(candidate, tracer)


def heads_computed_from(candidate: Candidate, heads: Sequence[Candidate], tracer: Tracer) -> list[Candidate]:
    """Return the heads that a few layers compute from the projections of a candidate and from nothing else."""
    own = _calls(candidate, tracer)
    return [
        head
        for head in heads
        if own.isdisjoint(projection.node for projection in head.trace.projections)
        and all(_is_only_source(own, projection, tracer) for projection in head.trace.projections)
    ]


def _calls(candidate: Candidate, tracer: Tracer) -> set[Node]:
    """Return the projections of a candidate and all other uses of their weights."""
    calls = {projection.node for projection in candidate.trace.projections}
    for projection in candidate.trace.projections:
        for source in tracer.trace_back(projection.weight, candidate.trace.size).sources:
            calls.update(tracer.uses_with_input(source.value))
    return calls


def _is_only_source(nodes: Collection[Node], head: Projection, tracer: Tracer) -> bool:
    """Return whether a projection reads the inputs only through these operations, and few layers after them."""
    visited: set[Node] = set()
    layers: set[str] = set()
    stack = [head.features.value]
    while stack:
        value = stack.pop()
        node = value.node
        if node is None and value.origin == INPUT:
            return False
        if node is None or node in nodes or node in visited:
            continue
        visited.add(node)
        layers |= tracer.weights_of(node)
        if len(layers) > _MAX_BETWEEN:
            return False
        stack += [operand for operand in node.inputs if operand.from_input]
    return bool(nodes)


def name_earlier_classes(candidates: Sequence[Candidate], tracer: Tracer) -> None:
    """Warn of each layer that gives a head as many of its features as there are classes, next to other features.

    They may be the classes of an earlier stage, as in a cascade.
    """
    accepted = [candidate for candidate in candidates if candidate.rejection_cause is None]
    known = {weight.value for one in accepted for weight in one.weights if weight is not None}
    for candidate in accepted:
        size = candidate.output.size
        for projection in candidate.trace.projections if size > 1 else ():
            if projection.in_features <= size:
                continue  # nothing lies next to that many features
            features = tracer.trace_back(projection.features, projection.in_features)
            for reason, piece in features.partial_sources:
                if reason != "concatenated" or piece.value.shape[piece.dim] != size:
                    continue
                part = tracer.trace_back(piece, size)
                names = {source_name(item.weight.value) for item in part.projections}
                if is_linear(part) and known.isdisjoint(axis.value for axis in part.sources):
                    candidate.caution = (
                        f"it reads the {size} results of {join_first(sorted(names))}, as many as there are classes, "
                        "next to other features. They keep their number. If they are classes of an earlier stage, that "
                        "stage still has the old ones"
                    )
