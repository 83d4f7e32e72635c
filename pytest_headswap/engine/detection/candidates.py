"""Find the output dimensions that a layer may set, and the reason why each is or is not a class dimension."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_headswap._text import join_first
from pytest_headswap.engine.dataflow.dim_tracer import ClassAxis, Projection, Trace, Tracer, source_name
from pytest_headswap.engine.dataflow.graph import ATTRIBUTE, BUFFER, PARAMETER, Graph
from pytest_headswap.engine.detection.class_space import ClassSpace, mixing_sentence
from pytest_headswap.engine.detection.other_forms import squeezed_dims, with_other_projections
from pytest_headswap.engine.pytorch.modules import owner_path
from pytest_headswap.head import Rejected

_PROBABILITIES = frozenset(("_softmax", "softmax", "_log_softmax", "log_softmax"))
_PARTIAL_CLASS_DIM = (
    "it sets only part of the class dimension, which is combined with other parts or cut: return the output of one "
    "layer that gives all classes"
)


PARTIAL_REASONS = ("concatenated", "composite")

TensorDims = frozenset[tuple[str, int | None]]
"""Names of tensors, each with one of its dimensions; None if that is unknown."""


@dataclass(frozen=True)
class OutputDim:
    """A dimension of a labelled output in one mode, and its size."""

    label: str
    dim: int
    size: int
    training: bool
    is_squeezed: bool = False
    """Whether forward removes the dimension because its size is 1. A longer one stays, and becomes `dim`."""


@dataclass(frozen=True)
class RejectionCause:
    """The reason why a candidate is not a head: a reason code, the name of the tensor concerned, and a sentence."""

    reason: str
    tensor: str
    sentence: str
    is_cut: bool = False
    """Whether the dimension is cut out of a longer one that the tensor sets."""


@dataclass
class Candidate:
    """An output dimension, its trace back through the model, and the weights of the projections on that trace.

    `weights` are the model's tensors in the projections, in the order of `trace.projections`. An entry is None if the
    projection multiplies by a tensor that is not the model's.
    """

    output: OutputDim
    axis: ClassAxis
    trace: Trace
    weights: list[ClassAxis | None]
    rejection_cause: RejectionCause | None = None
    mixing_cause: RejectionCause | None = None
    """Why a tensor that takes classes in cannot follow their count."""
    consumed_space: ClassSpace | None = None
    """What a dimension meets that was rejected because layers read it."""
    is_behind: bool = False
    """Whether it is a single number that the model computes from the classes of another candidate."""
    caution: str = ""
    """Why the user should look at the head although it is accepted."""
    inner_names: frozenset[str] = frozenset()
    """Names of the tensors that take classes in, after the projection."""

    @property
    def holds_probabilities(self) -> bool:
        """Return whether a softmax goes over it."""
        return any(node.name.split("::")[-1] in _PROBABILITIES for node in self.trace.nodes)

    def model_sources(self) -> list[ClassAxis]:
        """Return the parameters and buffers of the model at which the dimension begins."""
        return [axis for axis in self.trace.sources if axis.value.origin in (PARAMETER, BUFFER)]

    def begins_at(self) -> TensorDims:
        """Return the dimensions of tensors at which it begins, and the tensor that sets a part of it."""
        found: set[tuple[str, int | None]] = {(n, axis.dim) for axis in self.trace.sources for n in axis.value.names}
        cause = self.rejection_cause
        return frozenset(found | {(cause.tensor, None)} if cause and cause.reason in PARTIAL_REASONS else found)


def find_candidates(graph: Graph, tracer: Tracer, declared: int | None = None) -> Iterator[Candidate]:
    """Yield every output dimension that does not come from the inputs, the last dimensions of each output first.

    Skip empty dimensions, and faulty ones whose fault names no tensor.
    """
    for label, value in graph.outputs.items():
        for dim in reversed(range(len(value.shape))):
            candidate = read_candidate(label, ClassAxis(value, dim), graph, tracer, declared)
            if candidate is not None:
                yield candidate


def read_candidate(
    label: str, axis: ClassAxis, graph: Graph, tracer: Tracer, declared: int | None = None
) -> Candidate | None:
    """Return the candidate for one dimension of an output, or None if `find_candidates` skips it."""
    size = axis.value.shape[axis.dim]
    if size == 0:
        return None  # no elements, for example a detector that found nothing
    trace = with_other_projections(tracer.trace_back(axis, size), tracer)
    if trace.from_input or not (trace.projections or trace.sources or trace.partial_sources):
        return None
    candidate = Candidate(OutputDim(label, axis.dim, size, graph.training), axis, trace, [])
    backbone_cause = _settle_class_space(candidate, tracer, declared)
    candidate.weights = [_model_weight(item, tracer, size) for item in candidate.trace.projections]
    candidate.rejection_cause = backbone_cause or _rejection_cause(candidate, tracer)
    return candidate if candidate.rejection_cause is None or candidate.rejection_cause.tensor else None


def find_squeezed_candidates(graph: Graph, tracer: Tracer) -> Iterator[Candidate]:
    """Yield the class dimensions of size 1 that forward removes, such as by `fc(x).squeeze(-1)`."""
    for label, value in graph.outputs.items():
        for item in squeezed_dims(value):
            trace = tracer.trace_back(item.axis, 1)
            if trace.from_input or not trace.projections:
                continue
            weights = [_model_weight(projection, tracer, 1) for projection in trace.projections]
            output = OutputDim(label, item.dim, 1, graph.training, is_squeezed=True)
            candidate = Candidate(output, item.axis, trace, weights)
            candidate.rejection_cause = _rejection_cause(candidate, tracer)
            if candidate.rejection_cause is None and not item.is_kept_when_longer:
                sentence = f"forward returns its only logit without the class dimension ({item.removed_by.name})"
                remedy = "return the logits as they are, or use squeeze(-1)"
                candidate.rejection_cause = RejectionCause(
                    "unsupported_layer", source_name(trace.projections[0].weight.value), f"{sentence}: {remedy}"
                )
            yield candidate


def _model_weight(projection: Projection, tracer: Tracer, size: int) -> ClassAxis | None:
    """Return the tensor of the model that the projection multiplies by, or None.

    A layer that normalises, reparametrises or masks its weight computes it from several tensors. The weight is then
    the one with the most dimensions, and a parameter rather than a buffer.
    """
    sources = tracer.trace_back(projection.weight, size).sources
    own = [axis for axis in sources if axis.value.origin in (PARAMETER, BUFFER)]
    return max(own, key=lambda axis: (len(axis.value.shape), axis.value.origin == PARAMETER), default=None)


def _rejection_cause(candidate: Candidate, tracer: Tracer) -> RejectionCause | None:
    trace = candidate.trace
    for projection, weight in zip(trace.projections, candidate.weights, strict=True):
        if weight is None:
            return _weight_cause(projection, tracer, trace.size)
    for axis in trace.sources:
        if axis.value.origin == ATTRIBUTE:
            sentence = "it has one entry per class but is a plain attribute: register it as a buffer"
            return RejectionCause("unsupported_layer", axis.value.name, sentence)
    pieces, searched, is_cut = list(trace.partial_sources), set[ClassAxis](), trace.is_cut
    for reason, piece in pieces:  # grows by the pieces of pieces
        if piece in searched or piece.value.shape[piece.dim] == 0:
            continue
        searched.add(piece)
        part = tracer.trace_back(piece, piece.value.shape[piece.dim])
        is_cut |= part.is_cut
        fault = _consumed_by_backbone(part, tracer)
        if fault is None and part.projections:
            fault = RejectionCause(reason, source_name(part.projections[0].weight.value), _PARTIAL_CLASS_DIM, is_cut)
        if fault:
            return fault
        pieces += part.partial_sources
    if not trace.projections:
        names = [axis.value.name for axis in trace.sources if axis.value.names]
        return RejectionCause("no_layer_sets_output", min(names, default=""), "no projection layer sets this dimension")
    if trace.obstacles:
        reason, sentence = trace.obstacles[0]
        return RejectionCause(reason, candidate.weights[0].value.name if candidate.weights[0] else "", sentence)
    return None


def _weight_cause(projection: Projection, tracer: Tracer, size: int) -> RejectionCause:
    """Return why no parameter or buffer has the class dimension of a weight."""
    operation, trace = projection.node.name, tracer.trace_back(projection.weight, size)
    attribute = next((axis.value.name for axis in trace.sources if axis.value.origin == ATTRIBUTE), "")
    if attribute:
        sentence = f"{operation} multiplies by it, but it is a plain attribute: register it as a parameter. If it is a"
        return RejectionCause("unsupported_layer", attribute, f"{sentence} cache, clear it before the swap")
    if trace.ends or trace.obstacles:
        way = f"{trace.ends[0].name} makes its class dimension" if trace.ends else trace.obstacles[0][1]
        sentence = f"the weight of {operation} is computed from it, and {way}. Store the weight as one parameter, or"
        name = source_name(projection.weight.value)
        return RejectionCause("unsupported_layer", name, f"{sentence} parametrise it after the swap")
    sentence = f"forward computes the weight of {operation} from it, but it has no dimension of that size"
    advice = "use a parameter with one entry per class as the weight"
    return RejectionCause("unsupported_layer", source_name(projection.weight.value), f"{sentence}: {advice}")


def _settle_class_space(candidate: Candidate, tracer: Tracer, declared: int | None) -> RejectionCause | None:
    """Extend the trace by what the class dimension meets after the projection, or return why it holds features."""
    space = ClassSpace(candidate.trace, tracer, is_stated=declared == candidate.trace.size)
    if space.readers and (
        declared not in (None, candidate.trace.size)
        or not space.is_class_space()
        or space.leads_elsewhere(candidate.axis.value)
    ):
        candidate.consumed_space = space
        cause = _consumed_by_backbone(candidate.trace, tracer)
        names = [source_name(item.weight.value) for item in candidate.trace.projections]
        if declared == candidate.trace.size and not space.entries and not set(names).isdisjoint(space.readers):
            sentence = "the features depend on it as well, so resizing it would change the backbone"
            return RejectionCause("unsupported_layer", names[0], f"{sentence}: give the head its own weight first")
        if cause or space.is_linear or not names:
            return cause
        return RejectionCause(
            "output_is_backbone", names[0], f"{space.readers[0]} consumes its output, so it belongs to the backbone"
        )
    if space.readers and declared is None and not space.is_linear and not candidate.holds_probabilities:
        candidate.caution = (
            f"its {candidate.trace.size} results are also read by {join_first(space.readers)}, as in a residual block "
            "of a backbone. Only the widths suggest that they are classes. If they are features, put a head after the "
            "model instead"
        )
    return _enter(candidate, space)


def accept_consumed(candidate: Candidate, tracer: Tracer) -> None:
    """Accept a candidate that was rejected because layers read it. These layers follow the class count."""
    if candidate.consumed_space is not None:
        cause = _enter(candidate, candidate.consumed_space)
        candidate.weights = [_model_weight(item, tracer, candidate.trace.size) for item in candidate.trace.projections]
        candidate.rejection_cause = cause or _rejection_cause(candidate, tracer)


def _enter(candidate: Candidate, space: ClassSpace) -> RejectionCause | None:
    """Extend the trace by what the class dimension meets, or return why that cannot follow the class count."""
    if space.fault:
        return RejectionCause(*space.fault)
    if space.fixed_buffer:
        layer = source_name(space.trace.projections[0].weight.value)
        candidate.mixing_cause = RejectionCause("unsupported_layer", space.fixed_buffer, mixing_sentence(layer))
        return candidate.mixing_cause
    space.add_what_it_meets()
    candidate.trace = space.trace
    candidate.inner_names = frozenset((*space.readers, *space.tables))
    return None


def _consumed_by_backbone(trace: Trace, tracer: Tracer) -> RejectionCause | None:
    for projection in trace.projections:
        consumer = tracer.find_consumer(projection.output, trace.size)
        if consumer is not None:
            name = source_name(projection.weight.value)
            return RejectionCause(
                "output_is_backbone", name, f"{consumer} consumes its output, so it belongs to the backbone"
            )
    return None


def rejections(candidates: list[Candidate], tracers: list[Tracer]) -> list[Rejected]:
    """Return the layers that set an output dimension but are not heads, and the layers right before the heads."""
    found: dict[str, str] = {}
    for candidate in candidates:
        if candidate.rejection_cause is not None:
            where = f"{candidate.output.label}, dimension {candidate.output.dim}"
            found.setdefault(
                owner_path(candidate.rejection_cause.tensor), f"{where}: {candidate.rejection_cause.sentence}"
            )
    for candidate in candidates:
        if candidate.rejection_cause is None:
            for projection, weight in zip(candidate.trace.projections, candidate.weights, strict=True):
                for name in _preceding_weights(projection, tracers[candidate.output.training]):
                    reader = weight.value.name if weight else "the head"
                    found.setdefault(
                        owner_path(name), f"computes features that {reader} reads, so it belongs to the backbone"
                    )
    return [Rejected(path, reason) for path, reason in found.items() if path]


def _preceding_weights(projection: Projection, tracer: Tracer) -> list[str]:
    """Return the nearest weight that sets the width of the features a projection reads."""
    features = projection.features
    for before in tracer.trace_back(features, features.value.shape[features.dim]).projections[:1]:
        return [source_name(before.weight.value)]
    return []
