"""Find the classification heads of a model in its data flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from pytest_headswap.engine.abstract import WAYS
from pytest_headswap.engine.candidates import Candidate, ClassOutput, find_candidates, rejections
from pytest_headswap.engine.errors import HeadSwapError, NoHeadError
from pytest_headswap.engine.graph import BUFFER, Graph
from pytest_headswap.engine.heads import Head, Heads, Rejected
from pytest_headswap.engine.identity import Place, find_places
from pytest_headswap.engine.inputs import Inputs
from pytest_headswap.engine.record import record
from pytest_headswap.engine.trace import Axis, Projection, Tracer

_ACTIVATIONS = {
    "_softmax": "softmax",
    "softmax": "softmax",
    "_log_softmax": "log_softmax",
    "log_softmax": "log_softmax",
    "sigmoid": "sigmoid",
}


@dataclass(frozen=True)
class ClassTensor:
    """A parameter or buffer with one entry a class: dimension `dim` is `outer * num_classes * inner` long.

    `names` are all the names under which it is registered.
    """

    names: tuple[str, ...]
    dim: int
    outer: int
    inner: int
    is_buffer: bool


@dataclass(frozen=True)
class Found:
    """A head with what the swap needs to know of it.

    `place` says where and how a layer is to be made when the model was built without one.
    """

    head: Head
    tensors: tuple[ClassTensor, ...]
    outputs: tuple[ClassOutput, ...]
    place: Place | None = None


@dataclass(frozen=True)
class Search:
    """Everything that was found out about a model in one probe of each mode.

    `shapes`: of the labelled outputs, for each mode that could be run (False: eval, True: train), and
    `ways`: how it was run there.
    """

    found: tuple[Found, ...]
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]
    shapes: dict[bool, dict[str, tuple[int, ...]]]
    ways: dict[bool, str]
    declared: int | None

    def heads(self) -> Heads:
        """The public view."""
        return Heads(tuple(item.head for item in self.found), self.rejected, self.notes, self.ways[False])


def search(model: nn.Module, inputs: Inputs) -> Search:
    """Probe the model in eval and in train mode and collect its heads.

    Raises:
        NoHeadError: it has none, nor a place for one.
        HeadSwapError: it cannot be run, or the class dimension cannot be followed.
    """
    graphs = [record(model, inputs, training=False)]
    notes: list[str] = []
    try:
        graphs.append(record(model, inputs, training=True, ways=WAYS[WAYS.index(graphs[0].way) :]))
    except HeadSwapError as error:
        notes.append(f"train mode could not be probed, so heads that only appear there are not seen: {error}")
    if not any(value.shape for graph in graphs for value in graph.outputs.values()):
        raise NoHeadError(
            "no_tensor_output", f"{type(model).__name__} returns no floating-point tensor with dimensions"
        )
    tracers = [Tracer(graph) for graph in graphs]
    candidates = [
        candidate for graph, tracer in zip(graphs, tracers, strict=True) for candidate in find_candidates(graph, tracer)
    ]
    rejected = rejections(candidates, tracers)
    declared = declared_num_classes(model)
    sound = [candidate for candidate in candidates if candidate.fault is None]
    if sound and declared != 0:
        found = _heads(sound)
    else:
        found = _gained(graphs, tracers, candidates)
        if not found:
            raise _no_head(model, candidates, rejected)
        notes.append("the model was built without a head: the Identity at its end becomes one")
    shapes = {graph.training: {label: value.shape for label, value in graph.outputs.items()} for graph in graphs}
    ways = {graph.training: graph.way for graph in graphs}
    return Search(tuple(found), tuple(rejected), tuple(notes), shapes, ways, declared)


def declared_num_classes(model: nn.Module) -> int | None:
    """The class count that the model states of itself (`num_classes`, or `num_labels` of its config), if any."""
    for owner in (model, getattr(model, "config", None)):
        for name in ("num_classes", "num_labels"):
            value = getattr(owner, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def _heads(candidates: list[Candidate]) -> list[Found]:
    """One head for each weight; other tensors with one entry a class go to the head they stand next to or behind."""
    found: dict[tuple[str, ...], Found] = {}
    taken: set[tuple[str, ...]] = set()
    main = candidates[0].output
    for candidate in candidates:
        tensors = {axis.value.names: _class_tensor(axis, candidate.trace.size) for axis in candidate.own_sources()}
        keys = [weight.value.names for weight in reversed(candidate.weights) if weight is not None]
        projections = dict(zip(keys, reversed(candidate.trace.projections), strict=True))
        for key, projection in projections.items():
            if key not in found:
                taken.add(key)
                found[key] = Found(_describe(candidate, projection, key, main), (tensors[key],), ())
            item = found[key]
            beside = {names for names in tensors if names not in taken and _module(names[0]) == item.head.path}
            taken |= beside
            found[key] = replace(
                item,
                tensors=item.tensors + tuple(tensors[names] for names in tensors if names in beside),
                outputs=(*item.outputs, candidate.output),
            )
        behind = [names for names in tensors if names not in taken]
        taken.update(behind)
        item = found[keys[0]]
        found[keys[0]] = replace(item, tensors=item.tensors + tuple(tensors[names] for names in behind))
    return [_with_names(item) for item in found.values()]


def _class_tensor(axis: Axis, size: int) -> ClassTensor:
    return ClassTensor(axis.value.names, axis.dim, axis.outer(size), axis.inner, axis.value.origin == BUFFER)


def _describe(candidate: Candidate, projection: Projection, key: tuple[str, ...], main: ClassOutput) -> Head:
    output = candidate.output
    path, *aliases = dict.fromkeys(_module(name) for name in key)
    operation = projection.node.name.split("::")[-1]
    kind = f"conv{len(projection.output.value.shape) - 2}d" if "conv" in operation else "linear"
    if "dist" in path:
        role = "distillation"  # the name decides this label only, never what is swapped
    else:
        role = "main" if (output.label, output.training) == (main.label, main.training) else "auxiliary"
    evidence = (
        f"dimension {output.dim} of {output.label}, {output.size} long, is set by {key[0]} in {operation}",
        f"{operation} reads {projection.in_features} features that come from the input",
        "no other layer consumes what it gives: it ends in the output",
    )
    return Head(
        path=path,
        kind=kind,
        in_features=projection.in_features,
        num_classes=output.size,
        class_dim=output.dim,
        role=role,
        activation=next((_ACTIVATIONS[op] for op in candidate.trace.operations if op in _ACTIVATIONS), None),
        aliases=tuple(aliases),
        evidence=evidence,
    )


def _with_names(item: Found) -> Found:
    outputs = tuple(dict.fromkeys(output.label for output in item.outputs))
    behind = [tensor.names[0] for tensor in item.tensors if _module(tensor.names[0]) != item.head.path]
    evidence = item.head.evidence
    if behind:
        evidence += (f"{', '.join(behind)} have one entry a class and follow it",)
    tensors = tuple(tensor.names[0] for tensor in item.tensors)
    return replace(item, head=replace(item.head, outputs=outputs, tensors=tensors, evidence=evidence))


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def _gained(graphs: Sequence[Graph], tracers: Sequence[Tracer], candidates: list[Candidate]) -> list[Found]:
    """The places for a head in a model that was built without one."""
    found: dict[str, Found] = {}
    for graph, tracer in zip(graphs, tracers, strict=True):
        mine = [candidate for candidate in candidates if candidate.output.training == graph.training]
        for candidate, place in find_places(graph, tracer, mine):
            output = candidate.output
            evidence = (
                f"{output.label} ends in {output.size} features with no projection behind them",
                f"they leave the model through {place.path}, an Identity",
            )
            head = Head(place.path, "identity", output.size, 0, output.dim, outputs=(output.label,), evidence=evidence)
            item = found.setdefault(place.path, Found(head, (), (), place))
            found[place.path] = replace(item, outputs=(*item.outputs, output))
    return list(found.values())


def _no_head(model: nn.Module, candidates: list[Candidate], rejected: list[Rejected]) -> HeadSwapError:
    name = type(model).__name__
    sentences = [f"{item.path}: {item.reason}" for item in rejected]
    if not candidates:
        return NoHeadError("output_from_input", f"no layer of {name} sets a dimension of its outputs", sentences)
    faults = [candidate.fault for candidate in candidates if candidate.fault is not None]
    for fault in faults:
        if fault.reason in ("concatenated", "composite", "unsupported_layer"):
            return HeadSwapError(fault.reason, f"{name}: {fault.tensor}: {fault.sentence}", sentences)
    if len(faults) < len(candidates):
        return NoHeadError(
            "declared_headless",
            f"{name} says num_classes = 0 and has no Identity where a head would go. If its last projection is meant "
            "as a head, set model.num_classes to its width first",
            sentences,
        )
    reasons = {fault.reason for fault in faults}
    reason = "output_is_backbone" if "output_is_backbone" in reasons else faults[0].reason
    return NoHeadError(
        reason,
        f"{name} returns features and has no Identity where a head would go. Put a head behind it, "
        "such as nn.Sequential(model, nn.Linear(features, classes))",
        sentences,
    )
