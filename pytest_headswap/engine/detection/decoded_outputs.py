"""Explain why a model has no class dimension in its outputs although it may have a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from pytest_headswap._text import join_first
from pytest_headswap.engine.abstract.stand_ins import TENSOR_KINDS
from pytest_headswap.engine.dataflow.dim_tracer import ClassAxis, Tracer
from pytest_headswap.engine.dataflow.graph import Graph
from pytest_headswap.engine.dataflow.module_outputs import record_module_outputs
from pytest_headswap.engine.detection.candidates import Candidate, find_candidates
from pytest_headswap.engine.detection.class_evidence import ChosenClasses, read_choices, weight_names
from pytest_headswap.engine.detection.competing import BOX_COORDINATES
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.modules import owner_path


def hidden_head_error(
    name: str, graphs: Sequence[Graph], tracers: Sequence[Tracer], flattened: Sequence[Candidate]
) -> HeadSwapError | None:
    """Return an error if the model may have a head that no output dimension leads to, or None.

    `flattened` are the class dimensions of which the model returns an index that counts other dimensions too.
    """
    for graph, tracer in zip(graphs, tracers, strict=True):
        for value in graph.outputs.values():
            for dim, size in enumerate(value.shape):
                for node in tracer.trace_back(ClassAxis(value, dim), size).ends if size else ():
                    if node.has_opaque_argument:
                        return HeadSwapError(
                            "unsupported_layer",
                            f"{node.module or name} keeps its weights in an opaque object ({node.name}) that "
                            "cannot be resized: swap the head first, then quantise the model",
                        )
    for graph in graphs:
        selections = graph.live_nodes().intersection(graph.selections)
        if selections or flattened:
            operations = f" ({', '.join(sorted({node.name for node in selections}))})" if selections else ""
            integers = f", such as {next(iter(graph.other_outputs))}" if graph.other_outputs else ""
            return HeadSwapError(
                "decoded_output",
                f"{name} returns results selected from its logits{operations}{integers}, not the logits themselves: "
                "call swap_head on the submodule that returns the logits, with example_inputs for that submodule",
            )
    return None


def name_submodules(error: HeadSwapError, model: nn.Module, inputs: Inputs, tensor_kind: str) -> HeadSwapError:
    """Return a `decoded_output` error that also names the submodules that return logits.

    If the model's choices lead to a layer, these are the outermost modules that return its classes. Otherwise they
    are all submodules whose outputs have a single class count.
    """
    graph, outputs = record_module_outputs(model, inputs, TENSOR_KINDS[TENSOR_KINDS.index(tensor_kind) :])
    tracer = Tracer(graph)
    chosen = ChosenClasses()
    read_choices(graph, tracer, [], chosen)
    weights = weight_names(chosen.flattened)
    advice: dict[str, str] = {}
    for path, values in outputs.items():
        if any(path.startswith(f"{outer}.") for outer in advice):
            continue
        found = [
            item
            for item in find_candidates(replace(graph, outputs=values, choices=[]), tracer)
            if item.rejection_cause is None
        ]
        names = weight_names(found)
        if not found or (weights and not weights & names):
            continue
        least = min(item.output.size for item in found)
        if len({item.output.label for item in found}) == len(found) and all(
            item.output.size in (least, BOX_COORDINATES * least) for item in found
        ):
            heads = sorted({owner_path(name).removeprefix(f"{path}.") for name in names})
            several = len({item.output.size for item in found}) > 1
            advice[path] = f"{path!r} ({least} classes{f', head={heads}' if several else ''})"
    graph.clear()
    if not advice:
        return error
    text = error.message.removeprefix(f"[{error.reason}] ")
    return HeadSwapError(
        error.reason,
        f"{text}. Data flow suggests {join_first(list(advice.values()))}. A forward pre-hook on it receives the "
        "arguments to pass as example_inputs",
        error.rejected,
    )
