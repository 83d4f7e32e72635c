"""Rules for operations that reduce or normalise dimensions."""

from __future__ import annotations

from pytest_headswap.engine.dataflow.dims.links import (
    DimLink,
    DimRelation,
    broadcast,
    normalize_dim,
    rule_table,
    same_positions,
)
from pytest_headswap.engine.dataflow.graph import Node


def _reduce(node: Node) -> DimRelation:
    shape = node.inputs[0].shape
    dims = node.argument(1, "ord" if "vector_norm" in node.name else "dim")
    if "vector_norm" in node.name or node.name.endswith("::norm"):
        dims = node.argument(2, "dim")
    if isinstance(dims, bool) or dims is None or dims == ():
        reduced = set(range(len(shape)))
    else:
        reduced = {normalize_dim(dim, len(shape)) for dim in (dims if isinstance(dims, tuple) else (dims,))}
    result = DimRelation(reduced={(0, dim) for dim in reduced})
    for output, value in enumerate(node.outputs):
        keep = len(value.shape) == len(shape)
        position = 0
        for dim, size in enumerate(shape):
            if dim not in reduced and position < len(value.shape) and value.shape[position] == size:
                result.links.append(DimLink(0, dim, output, position, size))
            if keep or dim not in reduced:
                position += 1
    return result


def _channel_norm(node: Node) -> DimRelation:
    """Batch, group and instance norm: weights and statistics belong to dimension 1."""
    result = DimRelation(same_positions(node, 0, 0))
    width = node.outputs[0].shape[1] if len(node.outputs[0].shape) > 1 else 0
    for operand in range(1, len(node.inputs)):
        if node.inputs[operand].shape == (width,):
            result.links.append(DimLink(operand, 0, 0, 1, width))
    return result


def _last_norm(node: Node) -> DimRelation:
    """Layer and RMS norm: weights belong to the last dimensions."""
    return DimRelation(
        same_positions(node, 0, 0) + [x for op in range(1, len(node.inputs)) for x in broadcast(node, op, 0)]
    )


RULES = rule_table(
    (
        _reduce,
        "mean sum amax amin max min argmax logsumexp prod any all std var var_mean median linalg_vector_norm norm",
    ),
    (
        _channel_norm,
        (
            "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
            "_batch_norm_with_update _batch_norm_no_update miopen_batch_norm native_group_norm"
        ),
    ),
    (_last_norm, "native_layer_norm _fused_rms_norm rms_norm"),
)
