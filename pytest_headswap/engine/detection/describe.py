"""Turn the candidates into heads: collect the tensors of each head, and describe it in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from pytest_headswap.engine.dataflow.dim_tracer import ClassAxis, Projection, Trace, Tracer
from pytest_headswap.engine.dataflow.graph import BUFFER, PARAMETER, Value
from pytest_headswap.engine.detection.candidates import Candidate, OutputDim
from pytest_headswap.engine.detection.final_activation import activation_of, final_activation
from pytest_headswap.engine.detection.head_path import path_through_head
from pytest_headswap.engine.detection.head_slot import HeadSlot
from pytest_headswap.engine.detection.tied_weights import TiedWeights
from pytest_headswap.engine.detection.weight_sums import ADDITIVE, changes_zero, last_name, summands_of_weight
from pytest_headswap.engine.pytorch.modules import owner_path
from pytest_headswap.head import Head

_BIAS_OPERANDS = {"addmm": 0, "addmv": 0, "baddbmm": 0, "convolution": 2, "linear": 2}

_KINDS = {"_trilinear": "bilinear", **dict.fromkeys(("_cdist_forward", "cdist", "sub"), "distance")}
_KINDS |= dict.fromkeys(("embedding", "_embedding_bag", "_embedding_bag_forward_only"), "embedding")

WEIGHT, BIAS, OTHER = "weight", "bias", "other"


@dataclass(frozen=True)
class ClassTensor:
    """A class-sized parameter or buffer. The length of its dimension `dim` is `outer * num_classes * inner`.

    `names` are the names under which it is registered and will be replaced. `part` is its role: `weight` multiplies
    the features, `bias` is added to the result, `other` is anything else. `is_inner` marks a tensor that takes classes
    in, after the projection. `more` are other class-sized dimensions of it, each as (dim, outer, inner). `reader` is
    the path of the module that owns it under one of its names and runs the projection, if there is one.
    """

    names: tuple[str, ...]
    dim: int
    outer: int
    inner: int
    is_buffer: bool
    part: str
    is_inner: bool = False
    more: tuple[tuple[int, int, int], ...] = ()
    reader: str | None = None

    @property
    def module(self) -> str:
        """Return the path of the module that owns it. For a reparametrised layer, that is the layer itself."""
        return owner_path(self.names[0]) if self.reader is None else self.reader


@dataclass(frozen=True)
class DetectedHead:
    """A head, with everything the swap needs to know about it.

    Attributes:
        head: the public description.
        tensors: its class-sized tensors, the weight of the projection first.
        outputs: the output dimensions that it sets, in each mode.
        slot: the head slot, if the model was built without a head.
        label_list: path of the `nn.ModuleList` with one layer for each label, if the head is one.
        module_path: path of the leaf module whose forward runs the projection, "" if there is none.
        activation_path: path of the leaf module that runs the activation after it, "" if there is none.
        activation_calls: the operations of that module, as pairs of mode (True: train) and position.
        own_activation_calls: those of them that follow this head.
        is_chosen_from: whether the model returns the index of the largest entry, or that entry.
        tied: pairs of a tensor of the head and the tensor of the backbone that it is tied to. A swap unties them.
        computed_by: the operation that computes its weight in forward, if a weight of 0 does not stay 0; else "".
        idle: pairs of a tensor of the head and its name in a module that did not run. A swap changes both.
        is_behind: whether it computes a single number from the classes of another head.
        caution: why the user should look at it, or "".
    """

    head: Head
    tensors: tuple[ClassTensor, ...]
    outputs: tuple[OutputDim, ...]
    slot: HeadSlot | None = None
    label_list: str | None = None
    module_path: str = ""
    activation_path: str = ""
    activation_calls: frozenset[tuple[bool, int]] = frozenset()
    own_activation_calls: frozenset[tuple[bool, int]] = frozenset()
    is_chosen_from: bool = False
    tied: tuple[tuple[str, str], ...] = ()
    idle: tuple[tuple[str, str], ...] = ()
    computed_by: str = ""
    is_behind: bool = False
    caution: str = ""

    @property
    def name(self) -> str:
        """Return the path of the head, or the name of its weight if that belongs to the model itself."""
        return self.head.path or (self.tensors[0].names[0] if self.tensors else "")


def describe_heads(
    model: nn.Module, candidates: Sequence[Candidate], tracers: Sequence[Tracer], chosen: Mapping[str, str]
) -> list[DetectedHead]:
    """Return one head for each weight.

    Other class-sized tensors belong to the head in the same module, or else to the head that they follow. `chosen`
    names the weights whose dimension an arg-max goes over, with the label of the output that holds the result.

    Raises:
        HeadSwapError: `unsupported_layer`, if the backbone uses a tensor of the head and the two uses cannot be
            separated.
    """
    found: dict[tuple[str, ...], DetectedHead] = {}
    described = {
        (weight.value.names, weight.dim) for item in candidates for weight in item.weights if weight is not None
    }
    main = candidates[0].output
    tied_weights = TiedWeights(model, candidates, tracers)
    for candidate in candidates:
        tracer = tracers[candidate.output.training]
        own = candidate.model_sources()
        own += [
            axis for axis in tracer.co_factors(own, candidate.trace.size) if axis.value.origin in (PARAMETER, BUFFER)
        ]
        tensors: dict[tuple[str, ...], ClassTensor] = {}
        summands = summands_of_weight(candidate, tracer)
        for axis in own:
            tensor, known = _class_tensor(axis, candidate, summands, tied_weights), tensors.get(axis.value.names)
            if known is not None and known.dim != tensor.dim:
                tensor = replace(known, more=(*known.more, (tensor.dim, tensor.outer, tensor.inner)))
            tensors[axis.value.names] = tensor
        keys = [weight.value.names for weight in reversed(candidate.weights) if weight is not None]
        for key, projection in zip(keys, reversed(candidate.trace.projections), strict=True):
            weight = tensors[key]
            if key not in found:
                item = _describe(model, candidate, projection, weight, main)
                item = replace(item, computed_by=changes_zero(projection, tracer, candidate.trace.size))
                path_to_output = path_through_head(model, candidate, projection, tracer, item.head.path)
                found[key] = replace(item, head=replace(item.head, path_to_output=path_to_output))
            item = _with_activation_calls(found[key], candidate, tracer)
            same_module = [
                names
                for names in tensors
                if (names, tensors[names].dim) not in described and tensors[names].module == weight.module
            ]
            described.update((names, tensors[names].dim) for names in same_module)
            found[key] = replace(
                item,
                tensors=item.tensors + tuple(tensors[names] for names in same_module),
                outputs=tuple(dict.fromkeys((*item.outputs, candidate.output))),
            )
        downstream = [names for names in tensors if (names, tensors[names].dim) not in described]
        described.update((names, tensors[names].dim) for names in downstream)
        item = found[keys[0]]
        found[keys[0]] = replace(item, tensors=item.tensors + tuple(tensors[names] for names in downstream))
    return [_finalize(item, tied_weights, chosen) for item in found.values()]


def cautions(heads: Iterable[DetectedHead]) -> list[str]:
    """Return why the user should look at these heads, with their names."""
    return [f"{item.name}: {item.caution}" for item in heads if item.caution]


def _class_tensor(
    axis: ClassAxis, candidate: Candidate, summands: Collection[Value], tied_weights: TiedWeights
) -> ClassTensor:
    value, size = axis.value, candidate.trace.size
    weights = [weight.value for weight in candidate.weights if weight is not None]
    part = WEIGHT if value in weights or value in summands else BIAS if _is_added(candidate.trace, axis) else OTHER
    names = tied_weights.own_names(value, candidate)
    is_inner = not candidate.inner_names.isdisjoint(value.names)
    running = {projection.node.module for projection in candidate.trace.projections}
    reader = next((path for path in map(owner_path, names) if path in running), None)
    is_buffer = value.origin == BUFFER
    return ClassTensor(names, axis.dim, axis.outer(size), axis.inner, is_buffer, part, is_inner, reader=reader)


def _is_added(trace: Trace, axis: ClassAxis) -> bool:
    if axis not in trace.merge_points:
        return False
    node, operand = trace.merge_points[axis]
    return last_name(node) in ADDITIVE or _BIAS_OPERANDS.get(last_name(node)) == operand


def _describe(
    model: nn.Module, candidate: Candidate, projection: Projection, weight: ClassTensor, main: OutputDim
) -> DetectedHead:
    output = candidate.output
    path, owners = weight.module, dict.fromkeys(map(owner_path, weight.names))
    aliases = [name for name in owners if name != path and model.get_submodule(name) is model.get_submodule(path)]
    operation = projection.node.name.split("::")[-1]
    if "dist" in path:
        role = "distillation"  # The name decides only this label, never what is swapped.
    else:
        role = "main" if (output.label, output.training) == (main.label, main.training) else "auxiliary"
    activation = final_activation(candidate.trace)
    where = f"dimension {output.dim} of {output.label} (size {output.size})"
    if output.is_squeezed:
        where = f"dimension {output.dim} of {output.label}, which forward removes while its size is 1,"
    evidence = [
        f"{where} is set by {weight.names[0]} in {operation}",
        f"{operation} reads {projection.in_features} features computed from the input",
        f"inside the class dimension, its result meets {', '.join(sorted(candidate.inner_names))}"
        if candidate.inner_names
        else "no other layer consumes its result: it leads only to the output",
    ]
    if weight.outer * weight.inner > 1:
        width = weight.outer * output.size * weight.inner
        evidence.append(f"its width is {width}, which is {weight.outer * weight.inner} times the class count")
    head = Head(
        path=path,
        kind=_kind(operation, len(projection.output.value.shape) - 2, projection.in_features),
        in_features=projection.in_features,
        num_classes=output.size,
        class_dim=output.dim,
        role=role,
        activation=activation_of(activation) if activation is not None else None,
        aliases=tuple(aliases),
        evidence=tuple(evidence),
    )
    activation_path = activation.module if activation is not None else ""
    return DetectedHead(
        head,
        (weight,),
        (),
        module_path=projection.node.module,
        activation_path=activation_path,
        is_behind=candidate.is_behind,
        caution=candidate.caution,
    )


def _with_activation_calls(item: DetectedHead, candidate: Candidate, tracer: Tracer) -> DetectedHead:
    if not item.activation_path:
        return item
    own = {node for node in candidate.trace.nodes if node.module == item.activation_path}
    calls = {(candidate.output.training, position): node for position, node in tracer.calls(item.activation_path)}
    return replace(
        item,
        activation_calls=item.activation_calls.union(calls),
        own_activation_calls=item.own_activation_calls.union(key for key, node in calls.items() if node in own),
    )


def _kind(operation: str, spatial: int, in_features: int) -> str:
    if operation in ADDITIVE and in_features == 1:
        return "thresholds"
    if "conv" in operation:
        return f"conv{spatial}d"
    return _KINDS.get(operation, "linear")


def _finalize(item: DetectedHead, tied_weights: TiedWeights, chosen: Mapping[str, str]) -> DetectedHead:
    outputs = tuple(dict.fromkeys(output.label for output in item.outputs))
    evidence = item.head.evidence
    downstream = [tensor.names[0] for tensor in item.tensors if tensor.module != item.tensors[0].module]
    if downstream:
        verb = "have" if len(downstream) > 1 else "has"
        evidence += (f"{', '.join(downstream)} {verb} one entry per class, after the projection",)
    tensors = tuple(tensor.names[0] for tensor in item.tensors)
    tied = tuple((name, tied_weights.untied[name]) for name in tensors if name in tied_weights.untied)
    unread = tied_weights.idle()
    idle = tuple(unread[name] for name in tensors if name in unread)
    evidence += tuple(f"{name} is shared with {other}: a new head gets its own tensor" for name, other in tied)
    labels = sorted({chosen[name] for name in item.tensors[0].names if name in chosen})
    caution = "" if labels else item.caution
    if caution:
        evidence += (caution,)
    if labels:
        evidence += (f"{labels[0]} is chosen from its classes, such as by arg-max",)
    head = replace(item.head, outputs=outputs, tensors=tensors, evidence=evidence)
    return replace(item, head=head, is_chosen_from=bool(labels), tied=tied, idle=idle, caution=caution)
