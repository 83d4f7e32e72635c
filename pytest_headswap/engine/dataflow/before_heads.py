"""Find the operations of a data flow that compute what the heads read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pytest_headswap.engine.dataflow.dim_tracer import Tracer
from pytest_headswap.engine.dataflow.graph import Graph, Node


class HeadNames(NamedTuple):
    """The names of the tensors of the heads, and the paths of their modules."""

    tensors: frozenset[str]
    modules: frozenset[str]


def head_calls(graph: Graph, heads: HeadNames) -> list[Node]:
    """Return the operations that read a tensor of a head."""
    return Tracer(graph).uses_of(heads.tensors)


def before_heads(graph: Graph, heads: HeadNames) -> set[Node]:
    """Return the operations that compute the features which the heads read."""
    calls = head_calls(graph, heads)
    return features_of(calls, calls, heads)


def features_of(calls: Sequence[Node], all_calls: Sequence[Node], heads: HeadNames) -> set[Node]:
    """Return the operations outside of the heads that some calls of heads depend on."""
    inside = set(all_calls)
    found: set[Node] = set()
    stack = [value.node for call in calls for value in call.inputs if value.from_input]
    while stack:
        node = stack.pop()
        if node is not None and node not in found and node not in inside:
            found.add(node)
            stack += [value.node for value in node.inputs]
    return {node for node in found if node.module not in heads.modules}
