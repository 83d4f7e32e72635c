"""Find class counts that forward combines with the classes as plain numbers, such as the 10 in `10 / evidence`."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_headswap.engine.dataflow.dim_tracer import Tracer
from pytest_headswap.engine.dataflow.graph import Graph, Node, Value
from pytest_headswap.engine.detection.describe import DetectedHead

_LEAST = 3
"""Smaller numbers, as in the mean of two heads, seldom count classes."""


def counts_as_scalars(
    graphs: Sequence[Graph], tracers: Sequence[Tracer], detected: Sequence[DetectedHead]
) -> frozenset[int]:
    """Return the class counts that an operation on the results of a head has as a number among its arguments."""
    found: set[int] = set()
    for graph, tracer in zip(graphs, tracers, strict=True):
        for item in detected:
            count = item.head.num_classes
            if count >= _LEAST and count not in found:
                names = [name for tensor in item.tensors for name in tensor.names]
                if _has_scalar(graph, set(tracer.uses_of(names)), count):
                    found.add(count)
    return frozenset(found)


def _has_scalar(graph: Graph, heads: set[Node], count: int) -> bool:
    behind: set[Value] = set()
    for node in graph.nodes:
        if node in heads or not behind.isdisjoint(node.inputs):
            behind.update(node.outputs)
            if node.pointwise and node not in heads and has_scalar(node.args, count):
                return True
    return False


def has_scalar(arguments: Sequence[object], count: int) -> bool:
    """Return whether a number among the arguments of an operation equals a class count."""
    return any(type(value) in (int, float) and value == count for value in arguments)
