"""Rules for how the output dimensions of an operation relate to its input dimensions.

A `DimLink` says that an output and an input dimension run over the same index, or share a factor of it (after `view`).
`contracted` pairs of dimensions are summed over together, as in a matrix product. These two facts about each
operation are enough to trace the class dimension of an output back to the layer that sets it. Operations without a
rule are matched by shape.
"""

from __future__ import annotations

from typing import Any

import torch

from pytest_headswap.engine.dataflow.dims import products, reductions, views
from pytest_headswap.engine.dataflow.dims.links import (
    DimLink,
    DimRelation,
    broadcasts,
    copy_rule,
    like_first,
    match_by_size,
    pointwise_rule,
    rule_table,
)
from pytest_headswap.engine.dataflow.graph import Node

__all__ = ["RULES", "DimLink", "DimRelation", "relation"]

RULES = {
    **views.RULES,
    **reductions.RULES,
    **products.RULES,
    **rule_table(
        (copy_rule, "copy"),
        (pointwise_rule, "expand expand_copy"),
        (like_first, "_softmax _log_softmax softmax log_softmax cumsum roll flip native_dropout _masked_softmax sort"),
        (like_first, "zero fill"),
    ),
}


# Other namespaces may use the same name with other arguments, such as `quantized::linear`.
_NAMESPACES = ("aten", "headswap")
_PLAIN_TYPES = frozenset(
    (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
)
_MAX_ENTRIES = 2**14  # maximum number of cached relations
_cache: dict[Any, DimRelation] = {}


def relation(node: Node) -> DimRelation:
    """Return the dimension relation of a recorded operation. The result is shared: do not modify it.

    The relation depends only on shapes and arguments, so it is cached.
    """
    shapes = tuple([value.shape for value in node.inputs]), tuple([value.shape for value in node.outputs])
    key = (
        node.name,
        node.pointwise,
        shapes,
        _plain_key(node.args),
        *node.kwargs,
        _plain_key(tuple(node.kwargs.values())),
    )
    entry = _cache.get(key)
    if entry is None:
        if len(_cache) >= _MAX_ENTRIES:
            _cache.clear()
        entry = _cache[key] = _relation(node)
    return entry


def _plain_key(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments, with tensors and opaque objects such as packed weights replaced by their type."""
    return tuple([_plain_key(x) if type(x) is tuple else x if type(x) in _PLAIN_TYPES else type(x) for x in arguments])


def _relation(node: Node) -> DimRelation:
    namespace, _, name = node.name.partition("::")
    rule = RULES.get(name.rstrip("_")) if namespace in _NAMESPACES else None
    if rule is not None:
        return rule(node)
    return pointwise_rule(node) if node.pointwise or broadcasts(node) else match_by_size(node)
