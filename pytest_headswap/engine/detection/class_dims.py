"""Decide which dimensions of the outputs count classes, where a weight sets several, and where the modes disagree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_headswap.engine.dataflow.dim_tracer import Tracer, source_name
from pytest_headswap.engine.dataflow.graph import ancestors
from pytest_headswap.engine.detection.candidates import Candidate, RejectionCause
from pytest_headswap.engine.errors import HeadSwapError


def dims_by_weight(candidates: Iterable[Candidate]) -> dict[tuple[bool, str, str], dict[int, Candidate]]:
    """Return the dimensions that each weight sets in each output: keys are the mode, the output and the weight."""
    groups: dict[tuple[bool, str, str], dict[int, Candidate]] = {}
    for candidate in candidates:
        output = candidate.output
        for weight in candidate.weights:
            if weight is not None:
                group = groups.setdefault((output.training, output.label, weight.value.name), {})
                group[output.dim] = candidate
    return groups


def resolve_class_dim(candidates: list[Candidate], declared: int | None, tracers: Sequence[Tracer]) -> list[Candidate]:
    """Keep one dimension where a weight sets several dimensions of an output.

    A weight of size classes * coordinates sets both dimensions of an output (batch, classes, 4). The class dimension
    is the one whose size is the class count of another head, or the count that the model declares. A stacked weight
    of shape (members, features, classes) multiplies each member with features of its own, so the members are not
    classes.

    Raises:
        HeadSwapError: `ambiguous`, unless exactly one dimension remains.
    """
    groups = dims_by_weight(candidates)
    counts = {candidate.output.size for group in groups.values() if len(group) == 1 for candidate in group.values()}
    other_dims: set[int] = set()
    for (training, label, name), group in groups.items():
        axes = {axis for candidate in group.values() for axis in candidate.weights if axis and axis.value.name == name}
        if len(group) < 2 or len(axes) == 1:  # with one axis all dimensions count classes, as in a matrix of pairs
            continue
        fitting = [candidate for candidate in group.values() if candidate.output.size in counts | {declared}]
        if len(fitting) != 1:
            tracer = tracers[training]
            fitting = [
                candidate
                for candidate in group.values()
                if not any(tracer.is_batched(projection) for projection in candidate.trace.projections)
            ]
        if len(fitting) != 1:
            sizes = " and ".join(f"{dim} (size {candidate.output.size})" for dim, candidate in sorted(group.items()))
            raise HeadSwapError(
                "ambiguous",
                f"{name} sets the dimensions {sizes} of {label}, and it is unclear which counts classes: set "
                "model.num_classes to the class count",
            )
        other_dims |= {id(candidate) for candidate in group.values() if candidate is not fitting[0]}
    return [candidate for candidate in candidates if id(candidate) not in other_dims]


def check_no_weight_sets_parts(
    candidates: Iterable[Candidate], accepted: Sequence[Candidate], declared: int | None
) -> None:
    """Check that no part of another dimension of the same output is cut out of what sets the classes.

    A detector may cut coordinates and classes out of one dimension: the dimension that is whole then counts anchors. It
    counts classes if another head has as many, or if the model declares them. A dimension that is joined from whole
    parts, such as the anchors of several levels, is no such sign.

    Raises:
        HeadSwapError: `composite`.
    """
    names = {id(item): {name for weight in item.weights if weight for name in weight.value.names} for item in accepted}
    for part in candidates:
        cause, output = part.rejection_cause, part.output
        if cause is None or not cause.is_cut:
            continue
        for item in accepted:
            counts = {x.output.size for x in accepted if names[id(x)].isdisjoint(names[id(item)])} | {declared}
            is_same = (item.output.label, item.output.training) == (output.label, output.training)
            if is_same and cause.tensor in names[id(item)] and item.output.size not in counts:
                raise HeadSwapError(
                    "composite",
                    f"{cause.tensor} sets dimension {item.output.dim} (size {item.output.size}) of {output.label} and "
                    f"parts of dimension {output.dim}, and it is unclear which counts classes: return the classes of "
                    "one layer that gives nothing else, or set model.num_classes if the whole dimension counts them",
                )


def reject_features_of_stated_heads(candidates: Sequence[Candidate], declared: int | None) -> None:
    """Reject what a head of the stated class count reads features from, such as the keys in a returned cache."""
    possible = [item for item in candidates if item.rejection_cause is None]
    stated = [item for item in possible if item.output.size == declared and item.trace.projections]
    before = ancestors(projection.features.value for item in stated for projection in item.trace.projections)
    for item in possible:
        own = {projection.node for projection in item.trace.projections}
        if item.output.size != declared and own and own <= before:
            name = source_name(item.trace.projections[0].weight.value)
            reader = source_name(stated[0].trace.projections[0].weight.value)
            item.rejection_cause = RejectionCause(
                "output_is_backbone",
                name,
                f"{reader}, a head of the stated class count, reads features computed from it",
            )


def check_modes_agree(candidates: Sequence[Candidate], accepted: Sequence[Candidate]) -> None:
    """Check that no head sets an output in one mode only, if in the other mode the same output cannot follow.

    Raises:
        HeadSwapError: the reason why it cannot, such as a normalised weight that eval mode reads from a cache.
    """

    def key(item: Candidate, *, training: bool) -> tuple[object, ...]:
        return item.output.label, item.output.dim, item.output.size, training

    found = {key(item, training=item.output.training) for item in accepted}
    for item in candidates:
        cause, training = item.rejection_cause, item.output.training
        if cause is None or cause.reason != "unsupported_layer" or key(item, training=training) in found:
            continue
        if key(item, training=not training) in found:
            mode = "train" if training else "eval"
            raise HeadSwapError(cause.reason, f"in {mode} mode, {cause.tensor}: {cause.sentence}")
