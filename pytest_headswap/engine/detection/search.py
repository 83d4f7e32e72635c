"""Find the classification heads of a model in its data flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from pytest_headswap.engine.abstract.script_modules import is_script
from pytest_headswap.engine.abstract.stand_ins import TENSOR_KINDS
from pytest_headswap.engine.dataflow.dim_tracer import Tracer
from pytest_headswap.engine.dataflow.graph import Graph
from pytest_headswap.engine.dataflow.recorder import record
from pytest_headswap.engine.detection.candidates import (
    PARTIAL_REASONS,
    Candidate,
    RejectionCause,
    find_candidates,
    find_squeezed_candidates,
    rejections,
)
from pytest_headswap.engine.detection.class_dims import (
    check_modes_agree,
    check_no_weight_sets_parts,
    reject_features_of_stated_heads,
    resolve_class_dim,
)
from pytest_headswap.engine.detection.class_evidence import (
    ChosenClasses,
    read_choices,
    reject_class_mixing,
    reject_parts_of_attention,
)
from pytest_headswap.engine.detection.competing import box_heads, competing_heads
from pytest_headswap.engine.detection.declared_counts import count_disagreement, declared_num_classes
from pytest_headswap.engine.detection.decoded_outputs import hidden_head_error, name_submodules
from pytest_headswap.engine.detection.describe import DetectedHead, describe_heads
from pytest_headswap.engine.detection.earlier_outputs import (
    accept_earlier_classes,
    accept_shared,
    name_earlier_classes,
)
from pytest_headswap.engine.detection.head_path import path_to_slot
from pytest_headswap.engine.detection.head_slot import find_head_slots
from pytest_headswap.engine.detection.input_sizes import inputs_in_outputs, inputs_of_size
from pytest_headswap.engine.detection.label_lists import find_label_lists
from pytest_headswap.engine.detection.scalar_counts import counts_as_scalars
from pytest_headswap.engine.detection.search_result import SearchResult
from pytest_headswap.engine.detection.unregistered import unregistered_weight_error
from pytest_headswap.engine.detection.unresolved_outputs import unresolved_output_error, written_counts
from pytest_headswap.engine.errors import HeadSwapError, NoHeadError
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.wrappers import script_module_error
from pytest_headswap.head import Head, Rejected


def detect_heads(
    model: nn.Module, inputs: Inputs, *, train_mode: bool = True, tensor_kinds: Sequence[str] = TENSOR_KINDS
) -> SearchResult:
    """Run the model in eval and train mode and collect its heads. Without `train_mode`, run only eval mode.

    `tensor_kinds` are as for `abstract_run`.

    Raises:
        NoHeadError: the model has no head, and no slot for one. If train mode could not be run, that error is the
            cause.
        HeadSwapError: the model cannot be run, or the class dimension cannot be traced.
    """
    graphs = [record(model, inputs, training=False, tensor_kinds=tensor_kinds)]
    notes: list[str] = []
    train_error: HeadSwapError | None = None
    try:
        if train_mode:
            graphs.append(
                record(
                    model, inputs, training=True, tensor_kinds=tensor_kinds[tensor_kinds.index(graphs[0].tensor_kind) :]
                )
            )
    except HeadSwapError as error:
        train_error = error
        notes.append(
            f"the model could not be run in train mode, so heads that appear only there were not found: {error.message}"
        )
    try:
        result = detect_heads_in(model, graphs, notes, train_error)
        if result.doubt is not None and result.doubt.reason == "decoded_output":
            result = replace(result, doubt=name_submodules(result.doubt, model, inputs, graphs[0].tensor_kind))
        return result
    except NoHeadError as error:
        raise error from train_error
    except HeadSwapError as error:
        if error.reason != "decoded_output":
            raise
        raise name_submodules(error, model, inputs, graphs[0].tensor_kind) from None
    finally:
        for graph in graphs:
            graph.clear()


def detect_heads_in(
    model: nn.Module, graphs: Sequence[Graph], notes: Sequence[str] = (), train_error: HeadSwapError | None = None
) -> SearchResult:
    """Collect the heads of a model from its recorded data flow.

    Raises:
        NoHeadError: as for `detect_heads`.
        HeadSwapError: as for `detect_heads`.
    """
    if not any(value.shape for graph in graphs for value in graph.outputs.values()) and not any(
        graph.choices for graph in graphs
    ):
        raise NoHeadError(
            "no_tensor_output",
            f"{type(model).__name__} returns no floating-point tensor with dimensions: let forward return the logits, "
            "or swap the submodule that returns them",
        )
    tracers = [Tracer(graph) for graph in graphs]
    declared = declared_num_classes(model)
    candidates: list[Candidate] = []
    chosen = ChosenClasses()
    mixing: list[RejectionCause] = []
    for graph, tracer in zip(graphs, tracers, strict=True):
        mine = list(find_candidates(graph, tracer, declared))
        reject_parts_of_attention(mine, tracers, declared)
        mixing += reject_class_mixing(mine, tracers, declared)
        accept_earlier_classes(mine, tracer, declared)
        accept_shared(mine, tracer)
        name_earlier_classes(mine, tracer)
        read_choices(graph, tracer, mine, chosen)
        candidates += mine
    candidates += chosen.candidates
    if all(candidate.rejection_cause for candidate in candidates):
        for graph, tracer in zip(graphs, tracers, strict=True):
            candidates += find_squeezed_candidates(graph, tracer)
            mine = [candidate for candidate in candidates if candidate.output.training == graph.training]
            accept_earlier_classes(mine, tracer, declared)
    reject_features_of_stated_heads(candidates, declared)
    rejected = rejections(candidates, tracers)
    possible = [candidate for candidate in candidates if candidate.rejection_cause is None]
    accepted = resolve_class_dim(possible, declared, tracers)
    check_modes_agree(candidates, accepted)
    lists = [] if accepted else find_label_lists(model, graphs, tracers)
    competing: frozenset[frozenset[str]] = frozenset()
    boxes: dict[str, str] = {}
    doubt = None
    if accepted and declared != 0:
        detected = describe_heads(model, accepted, tracers, chosen.labels)
        competing = competing_heads(detected, possible, tracers)
        boxes = box_heads(detected, possible)
        name = type(model).__name__
        if mixing:
            doubt = HeadSwapError(mixing[0].reason, f"{name}: {mixing[0].tensor}: {mixing[0].sentence}")
        elif chosen.flattened and not chosen.labels:
            doubt = hidden_head_error(name, graphs, tracers, chosen.flattened)
        elif not chosen.labels and all(item.head.num_classes != declared for item in detected):
            doubt = unresolved_output_error(name, graphs, tracers, candidates, detected)
        if doubt is None:
            check_no_weight_sets_parts(candidates, accepted, declared)
    elif lists and declared != 0:
        detected = lists
    else:
        detected = _detect_slots(model, graphs, tracers, candidates)
        if not detected:
            raise _no_head(model, graphs, tracers, candidates, rejected, chosen.flattened)
        notes = (*notes, "the model was built without a head: a new head replaces the Identity at its end")
    _check_script_modules(model, detected)
    shapes = {graph.training: {label: value.shape for label, value in graph.outputs.items()} for graph in graphs}
    used = frozenset(name for tracer in tracers for name in tracer.used_names())
    tensor_kinds = {graph.training: graph.tensor_kind for graph in graphs}
    return SearchResult(
        tuple(detected),
        tuple(rejected),
        tuple(notes),
        shapes,
        tensor_kinds,
        declared,
        train_error,
        doubt or count_disagreement(model, declared, detected, used),
        competing,
        boxes,
        {
            (item.output.training, item.output.label, item.output.dim): item.begins_at()
            for item in candidates
            if item.rejection_cause is not None
        }
        | written_counts(graphs, tracers, candidates, detected),
        tuple(inputs_of_size(graphs, tracers, {item.head.num_classes for item in detected})),
        used,
        counts_as_scalars(graphs, tracers, detected),
    )


def _check_script_modules(model: nn.Module, detected: Sequence[DetectedHead]) -> None:
    for path in dict.fromkeys(tensor.module for item in detected for tensor in item.tensors):
        if is_script(model.get_submodule(path)):
            raise script_module_error(path)


def _detect_slots(
    model: nn.Module, graphs: Sequence[Graph], tracers: Sequence[Tracer], candidates: list[Candidate]
) -> list[DetectedHead]:
    """Return the head slots of a model that was built without a head."""
    detected: dict[str, DetectedHead] = {}
    for graph, tracer in zip(graphs, tracers, strict=True):
        mine = [candidate for candidate in candidates if candidate.output.training == graph.training]
        for candidate, slot in find_head_slots(graph, tracer, mine):
            output = candidate.output
            evidence = (
                f"{output.label} ends in {output.size} features with no projection after them",
                f"they leave the model through {slot.path}, an Identity",
            )
            head = Head(
                slot.path,
                "identity",
                output.size,
                0,
                output.dim,
                outputs=(output.label,),
                evidence=evidence,
                path_to_output=path_to_slot(model, candidate, tracer, slot.path),
            )
            item = detected.setdefault(slot.path, DetectedHead(head, (), (), slot))
            detected[slot.path] = replace(item, outputs=(*item.outputs, output))
    return list(detected.values())


def _no_head(
    model: nn.Module,
    graphs: Sequence[Graph],
    tracers: Sequence[Tracer],
    candidates: list[Candidate],
    rejected: list[Rejected],
    flattened: list[Candidate],
) -> HeadSwapError:
    name = type(model).__name__
    sentences = [f"{item.path}: {item.reason}" for item in rejected]
    if flattened or not candidates:
        hidden = hidden_head_error(name, graphs, tracers, flattened)
        hidden = hidden or unregistered_weight_error(model, graphs, tracers)
        if hidden is not None:
            return hidden
        met = next(inputs_in_outputs(graphs, tracers), "")
        return NoHeadError("output_from_input", met or f"no layer of {name} sets a dimension of its outputs")
    causes = [candidate.rejection_cause for candidate in candidates if candidate.rejection_cause is not None]
    labels = any(graph.other_outputs for graph in graphs)
    for cause in causes:
        if cause.reason in PARTIAL_REASONS and labels and (decoded := hidden_head_error(name, graphs, tracers, ())):
            return decoded  # boxes of several layers, selected by their scores and returned with integer labels
        if cause.reason in (*PARTIAL_REASONS, "unsupported_layer"):
            return HeadSwapError(cause.reason, f"{name}: {cause.tensor}: {cause.sentence}", sentences)
    if len(causes) < len(candidates):
        return NoHeadError(
            "declared_headless",
            f"{name} declares num_classes = 0 and has no Identity where a head could go. If its last projection is "
            "the head, set model.num_classes to its width first",
            sentences,
        )
    reasons = {cause.reason for cause in causes}
    reason = "output_is_backbone" if "output_is_backbone" in reasons else causes[0].reason
    stated = ". If the width of its output counts classes, set model.num_classes to it"
    stated *= reason == "output_is_backbone" and declared_num_classes(model) is None
    return NoHeadError(
        reason,
        f"{name} returns features and has no Identity where a head could go. Add a head after it, "
        f"for example nn.Sequential(model, nn.Linear(features, classes)){stated}",
        sentences,
    )
