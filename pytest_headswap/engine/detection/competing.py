"""Find heads that may predict different things, such as classes and coordinates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations, permutations

from pytest_headswap.engine.dataflow.dim_tracer import Tracer
from pytest_headswap.engine.dataflow.graph import Node, Value, ancestors, is_attention
from pytest_headswap.engine.detection.candidates import Candidate
from pytest_headswap.engine.detection.class_dims import dims_by_weight
from pytest_headswap.engine.detection.describe import DetectedHead

BOX_COORDINATES = 4

_MAX_PERCEPTRON = 4
"""Number of layers that the perceptron of a head may have before its last one, as for boxes in DETR."""


def competing_heads(
    detected: Sequence[DetectedHead], candidates: Sequence[Candidate], tracers: Sequence[Tracer]
) -> frozenset[frozenset[str]]:
    """Return the pairs of heads, by the name of their weight, that may predict different things.

    Two heads of equal size with separate outputs compete, except in these cases:

    - Some output combines them, in any mode: an ensemble, or the two heads of a distilled model.
    - One of them has an output only in train mode.
    - One of them leaves the backbone early, as in deep supervision. The other one then reads features that a later
      stage of the backbone computed: several convolutions or attention, or more layers than the perceptron of a head.
    - The weight of one sets a second dimension of its output: it holds several values for each class.
    """
    several_dims = {weight for (_, _, weight), dims in dims_by_weight(candidates).items() if len(dims) > 1}
    rivals: list[DetectedHead] = [
        item
        for item in detected
        if item.tensors
        and item.tensors[0].names[0] not in several_dims
        and any(not output.training for output in item.outputs)
    ]
    pairs = [
        (one, other)
        for one, other in combinations(rivals, 2)
        if one.head.num_classes == other.head.num_classes and not _is_combined(one, other)
    ]
    features = _features(candidates) if pairs else {}
    before = {name: ancestors([value]) for name, value in features.items()}
    found = set()
    for one, other in pairs:
        names = one.tensors[0].names[0], other.tensors[0].names[0]
        mine, theirs = before[names[0]] - before[names[1]], before[names[1]] - before[names[0]]
        if not _is_later_stage(mine, theirs, tracers[False]) and not _is_later_stage(theirs, mine, tracers[False]):
            found.add(frozenset(names))
    return frozenset(found)


def box_heads(detected: Sequence[DetectedHead], candidates: Sequence[Candidate]) -> dict[str, str]:
    """Return the heads that may hold the four coordinates of a box for each class of another head.

    Keys and values are the names of their weights. Both heads read the same features, and nothing shows the classes
    and the coordinates as separate dimensions.
    """
    features = _features(candidates) if len(detected) > 1 else {}
    return {
        names[1]: names[0]
        for classes, boxes in permutations((item for item in detected if item.tensors), 2)
        if classes.head.num_classes * BOX_COORDINATES == boxes.head.num_classes
        for names in [(classes.tensors[0].names[0], boxes.tensors[0].names[0])]
        if classes.head.num_classes > 1 and names[0] in features and features[names[0]] is features.get(names[1])
    }


def _is_combined(one: DetectedHead, other: DetectedHead) -> bool:
    labels = [{(output.training, output.label) for output in item.outputs} for item in (one, other)]
    return bool(labels[0] & labels[1])


def _features(candidates: Sequence[Candidate]) -> dict[str, Value]:
    """Return the features that each weight reads in eval mode."""
    return {
        name: projection.features.value
        for candidate in candidates
        if candidate.rejection_cause is None and not candidate.output.training
        for projection, weight in zip(candidate.trace.projections, candidate.weights, strict=True)
        if weight is not None
        for name in weight.value.names
    }


def _is_later_stage(branch: Collection[Node], other: Collection[Node], tracer: Tracer) -> bool:
    """Return whether the operations of a branch are a stage of the backbone, which the other branch leaves out."""
    layers, others = ({name for node in nodes for name in tracer.weights_of(node)} for nodes in (branch, other))
    limit = 1 if any(_mixes_positions(node) for node in branch) else _MAX_PERCEPTRON
    return len(layers) > limit and 2 * len(others) <= len(layers)


def _mixes_positions(node: Node) -> bool:
    """Return whether an operation combines positions, as a convolution or attention does."""
    name = node.name.split("::")[-1]
    if "conv" in name:
        return any(size > 1 for size in node.inputs[1].shape[2:])
    return is_attention(node)
