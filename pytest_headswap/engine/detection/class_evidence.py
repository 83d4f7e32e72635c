"""Judge candidates by what surrounds them: arg-max over a dimension, tables of queries, and fixed buffers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pytest_headswap.engine.dataflow.dim_tracer import ClassAxis, Tracer, source_name
from pytest_headswap.engine.dataflow.graph import BUFFER, PARAMETER, Graph, ancestors, is_attention
from pytest_headswap.engine.detection.candidates import (
    Candidate,
    OutputDim,
    RejectionCause,
    accept_consumed,
    read_candidate,
)
from pytest_headswap.engine.detection.class_space import mixing_sentence
from pytest_headswap.engine.detection.earlier_outputs import heads_computed_from
from pytest_headswap.head import CHOSEN

_NORMALIZED = frozenset(("_softmax", "softmax", "_log_softmax", "log_softmax", "sigmoid"))


@dataclass
class ChosenClasses:
    """The dimensions over which a model chose what it returns.

    Attributes:
        candidates: dimensions that no output shows.
        labels: for the name of each weight that sets such a dimension, the label of the output.
        flattened: dimensions that no output shows, and for which the model returns only selected entries, or an index
            that is merged with others.
    """

    candidates: list[Candidate] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    flattened: list[Candidate] = field(default_factory=list)


def read_choices(graph: Graph, tracer: Tracer, candidates: Sequence[Candidate], result: ChosenClasses) -> None:
    """Add the dimensions over which the model chose what it returns to `result`.

    The operand of an arg-max is not an output, so its dimension becomes a candidate of its own, unless an output
    shows it. A choice before another head, such as that of a router, says nothing about classes, unless the model
    computes that head from its operand alone.
    """
    if not graph.choices:
        return
    outputs = [candidate for candidate in candidates if candidate.rejection_cause is None]
    shown = {projection.node for candidate in outputs for projection in candidate.trace.projections}
    before_heads = ancestors(
        projection.features.value for candidate in outputs for projection in candidate.trace.projections
    )
    # Without the values, nothing tells how many entries a selection keeps, so the swap could not be verified.
    is_selected = not graph.live_nodes().isdisjoint(graph.selections)
    seen: set[OutputDim] = set()
    for choice in graph.choices:
        label = f"{CHOSEN}{choice.label}"
        candidate = read_candidate(label, ClassAxis(choice.value, choice.dim), graph, tracer)
        is_cut = candidate is not None and bool(candidate.trace.partial_sources)
        if candidate is not None and is_cut:  # such as all classes but the background
            parts = (read_candidate(label, part, graph, tracer) for _, part in candidate.trace.partial_sources)
            candidate = next((part for part in parts if part is not None and part.rejection_cause is None), None)
        is_earlier = candidate is not None and bool(heads_computed_from(candidate, outputs, tracer))
        if candidate is not None and is_earlier and candidate.consumed_space is not None:
            accept_consumed(candidate, tracer)
        if candidate is None or candidate.rejection_cause is not None or candidate.output.size < 2:
            continue
        nodes = {projection.node for projection in candidate.trace.projections}
        is_shown = nodes <= shown
        if candidate.output in seen or not (is_shown or is_earlier or nodes.isdisjoint(before_heads)):
            continue
        seen.add(candidate.output)
        if (choice.is_flat or is_cut or is_selected) and not is_shown:
            result.flattened.append(candidate)
            continue
        result.labels.update(dict.fromkeys(weight_names([candidate]), choice.label))
        if not is_shown:
            result.candidates.append(candidate)


def reject_parts_of_attention(candidates: Sequence[Candidate], tracers: Sequence[Tracer], declared: int | None) -> None:
    """Reject the keys of attention, and the dimensions that a learned table brings along: positions, queries, latents.

    The rows of such a table attend to the input. They then pass through a later projection as part of its features,
    and that projection sets another dimension of the same output. Also reject the width of a table that other layers
    read.
    """
    for candidate in candidates:
        if candidate.rejection_cause is None:
            tracer = tracers[candidate.output.training]
            candidate.rejection_cause = _compared(candidate, tracer) or _width_of_table(candidate, tracer)
    for candidate in candidates:
        if candidate.rejection_cause is not None or candidate.weights[0] is None or not _attends(candidate):
            continue
        later = next((other for other in candidates if _carries(other, candidate)), None)
        if later is None or later.output.size == 1 or declared == candidate.output.size != later.output.size:
            continue
        weight = later.weights[0].value.name if later.weights[0] is not None else later.trace.projections[0].node.name
        candidate.rejection_cause = RejectionCause(
            "no_layer_sets_output",
            candidate.weights[0].value.name,
            f"its rows are positions or queries: {weight} reads each of them and sets another dimension",
        )
    tables = {name: item.rejection_cause for item in candidates if item.rejection_cause for name in _table_names(item)}
    for candidate in candidates:
        if candidate.rejection_cause is None:  # the table may be visible in the features that another output returns
            causes = (tables.get(name) for name in sorted(weight_names([candidate])))
            candidate.rejection_cause = next((cause for cause in causes if cause is not None), None)


def _table_names(candidate: Candidate) -> set[str]:
    """Return the weights of a candidate that was rejected as a table of positions or queries."""
    cause = candidate.rejection_cause
    is_table = cause is not None and cause.reason == "no_layer_sets_output" and _attends(candidate)
    return {name for name in weight_names([candidate]) if is_table and cause is not None and cause.tensor == name}


def _attends(candidate: Candidate) -> bool:
    """Return whether the dimension passes through attention: a product of two tensors that depend on the input."""
    return any(is_attention(node) for node in candidate.trace.nodes)


def _carries(later: Candidate, candidate: Candidate) -> bool:
    """Return whether the projections of `later` read features that have the dimension of `candidate`."""
    if (later.output.training, later.output.label) != (candidate.output.training, candidate.output.label):
        return False
    nodes = {projection.node for projection in later.trace.projections}
    own = {projection.node for projection in candidate.trace.projections}
    return bool(nodes) and nodes <= set(candidate.trace.nodes) - own and own.isdisjoint(later.trace.nodes)


def _compared(candidate: Candidate, tracer: Tracer) -> RejectionCause | None:
    """Return a cause if the entries are compared with those of another layer, as the keys of attention are."""
    size = candidate.trace.size
    own = {axis.value for axis in candidate.trace.sources}
    for projection in candidate.trace.projections:
        for partner in tracer.compared_features(projection.output, size):
            other = tracer.trace_back(partner, size)
            if other.projections and own.isdisjoint(axis.value for axis in other.sources):
                name, reader = (source_name(item.weight.value) for item in (projection, other.projections[0]))
                sentence = f"attention compares its output with that of {reader}, so it belongs to the backbone"
                return RejectionCause("output_is_backbone", name, sentence)
    return None


def _width_of_table(candidate: Candidate, tracer: Tracer) -> RejectionCause | None:
    size = candidate.trace.size
    weights = {axis for item in candidate.trace.projections for axis in tracer.trace_back(item.weight, size).sources}
    for axis in candidate.model_sources():
        is_table = axis.value.origin == PARAMETER and len(axis.value.shape) > 1
        if is_table and axis not in weights and axis.value.name not in candidate.inner_names:
            consumer = tracer.find_consumer(axis, size)
            if consumer is not None:
                sentence = f"{consumer} reads its entries, so they are features and belong to the backbone"
                return RejectionCause("output_is_backbone", axis.value.name, sentence)
    return None


def reject_class_mixing(
    candidates: Sequence[Candidate], tracers: Sequence[Tracer], declared: int | None
) -> list[RejectionCause]:
    """Reject the fixed buffers that mix the classes of a projection, such as a matrix of label noise, and return why.

    Its features are classes if they are probabilities, if another output shows them, or if the model declares as many.
    """
    causes: list[RejectionCause] = []
    for candidate in candidates:
        if candidate.mixing_cause is not None:
            causes.append(candidate.mixing_cause)
        weights = [axis.value for axis in candidate.weights if axis is not None]
        if candidate.rejection_cause is not None or not weights or any(x.origin != BUFFER for x in weights):
            continue
        tracer = tracers[candidate.output.training]
        for projection in candidate.trace.projections:
            features = projection.features
            size = features.value.shape[features.dim]
            trace = tracer.trace_back(features, size)
            before = sorted({axis.value.name for axis in trace.sources if axis.value.origin == PARAMETER})
            is_shown = not weight_names(candidates).isdisjoint(before)
            names = {node.name.split("::")[-1] for node in trace.nodes}
            if trace.projections and before and (is_shown or names & _NORMALIZED or size == declared):
                layer = next((name for name in before if name.endswith("weight")), before[0])
                candidate.rejection_cause = RejectionCause("unsupported_layer", weights[0].name, mixing_sentence(layer))
                causes.append(candidate.rejection_cause)
    return causes


def weight_names(candidates: Iterable[Candidate]) -> set[str]:
    """Return the names of the weights on the traces of these candidates."""
    return {weight.value.name for item in candidates for weight in item.weights if weight is not None}
