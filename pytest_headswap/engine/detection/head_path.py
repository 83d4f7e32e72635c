"""Summarise the path from the backbone through a head to an output, for display only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from torch import nn

from pytest_headswap.engine.dataflow.dim_tracer import Projection, Tracer
from pytest_headswap.engine.dataflow.graph import Node, Value
from pytest_headswap.engine.detection.candidates import Candidate
from pytest_headswap.engine.detection.final_activation import activation_of
from pytest_headswap.head import PathStep

_MAX_BEFORE = 4
_MAX_AFTER = 6
# Reshapes and copies: between two layers they carry no information for the reader.
_RESHAPES = {
    *("view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "unsqueeze", "squeeze"),
    *("detach", "alias", "clone", "contiguous", "_to_copy", "split", "split_with_sizes", "unbind"),
}

_Pair = tuple[Node, Value]
"""An operation, and the one of its results that the path follows."""


def path_through_head(
    model: nn.Module,
    candidate: Candidate,
    projection: Projection,
    tracer: Tracer,
    path: str,
) -> tuple[PathStep, ...]:
    """Return the last steps of the backbone, the head at `path`, and the steps from there to the output."""
    before = list(_before(projection.features.value, tracer))
    projection_step = (projection.node, projection.output.value)
    after = list(_after(candidate, projection))
    inside = projection.node.module
    head_steps = [projection_step]
    if inside:  # The step covers the whole layer, with its bias and the reshapes around the product.
        while before and before[-1][0].module == inside:
            before.pop()
        while after and after[0][0].module == inside:
            head_steps.append(after.pop(0))
    head = PathStep("head", path, _class_of(model, path), head_steps[-1][1].shape)
    return (
        *list(_steps(model, before))[-_MAX_BEFORE:],
        head,
        *list(_steps(model, after, activation_of))[:_MAX_AFTER],
        _output_step(candidate),
    )


def path_to_slot(model: nn.Module, candidate: Candidate, tracer: Tracer, path: str) -> tuple[PathStep, ...]:
    """Return the last steps of a backbone whose features leave the model through the Identity at `path`."""
    before = list(_steps(model, _before(candidate.axis.value, tracer)))
    return (*before[-_MAX_BEFORE:], PathStep("head", path, _class_of(model, path)), _output_step(candidate))


def _output_step(candidate: Candidate) -> PathStep:
    return PathStep("output", candidate.output.label, "", candidate.axis.value.shape)


def _before(value: Value, tracer: Tracer) -> Iterator[_Pair]:
    """Yield the operations before a value in execution order.

    Of several operands, follow the one that was computed last.
    """
    pairs: list[_Pair] = []
    groups = 0
    while value.node is not None and groups <= 2 * _MAX_BEFORE + 1:
        groups += not pairs or pairs[-1][0].module != value.node.module
        pairs.append((value.node, value))
        coming = [operand for operand in value.node.inputs if operand.from_input]
        if not coming:
            break
        value = max(coming, key=tracer.position)
    return reversed(pairs)


def _after(candidate: Candidate, projection: Projection) -> Iterator[_Pair]:
    """Yield the operations on the class dimension from a projection to the output, in execution order."""
    nodes = set(candidate.trace.nodes)
    value = projection.output.value
    while value is not candidate.axis.value:
        node = next((node for node in value.users if node in nodes), None)
        if node is None:
            return
        used = (item for item in node.outputs if item is candidate.axis.value or nodes.intersection(item.users))
        value = next(used, node.outputs[0])
        yield node, value


def _steps(
    model: nn.Module, pairs: Iterable[_Pair], activation: Callable[[Node], str | None] = lambda _: None
) -> Iterator[PathStep]:
    """Yield one step for each leaf module, and one for the operations between two leaf modules."""

    def group_key(pair: _Pair) -> tuple[str, str | None]:
        node, _ = pair
        return node.module, None if node.module else activation(node)

    for (module, _), group in groupby(pairs, key=group_key):
        members = list(group)
        shape = members[-1][1].shape
        applied = next((name for node, _ in members if (name := activation(node))), "")
        if module:
            yield PathStep("activation" if applied else "layer", module, _class_of(model, module), shape)
            continue
        names = [node.name.split("::")[-1].strip("_") for node, _ in members if _is_informative(node)]
        if names:
            yield PathStep("activation" if applied else "operation", ", ".join(dict.fromkeys(names)), "", shape)


def _is_informative(node: Node) -> bool:
    return node.name.split("::")[-1] not in _RESHAPES


def _class_of(model: nn.Module, path: str) -> str:
    return type(model.get_submodule(path)).__name__
