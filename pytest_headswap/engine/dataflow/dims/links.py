"""Data types for dimension relations, and the rules that need only shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pytest_headswap.engine.dataflow.graph import Node

Shape = tuple[int, ...]
Rule = Callable[[Node], "DimRelation"]


class DimLink(NamedTuple):
    """A shared index: dimension `in_dim` of operand `operand` and dimension `out_dim` of output `output`.

    The index has length `size`. Either dimension may be longer. The shared index is then the factor with stride
    `in_inner` in the input dimension and `out_inner` in the output dimension.
    """

    operand: int
    in_dim: int
    output: int
    out_dim: int
    size: int
    in_inner: int = 1
    out_inner: int = 1


@dataclass
class DimRelation:
    """All links of one operation, and the dimensions that it sums over.

    Attributes:
        links: the links.
        contracted: pairs of (operand, dimension) that are multiplied and summed, and so have equal sizes.
        partial: for an output (output, dimension) that is cut out of, or assembled from, input dimensions: the
            reason. Its size does not follow from a single input dimension.
        reduced: pairs of (operand, dimension) that are summed, averaged or otherwise combined to one number.
        equal_parts: the dimension that the outputs divide into equal parts. It counts as partial unless all parts are
            combined again.
    """

    links: list[DimLink] = field(default_factory=list)
    contracted: list[tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=list)
    partial: dict[tuple[int, int], str] = field(default_factory=dict)
    reduced: set[tuple[int, int]] = field(default_factory=set)
    equal_parts: int | None = None


def rule_table(*entries: tuple[Rule, str]) -> dict[str, Rule]:
    """Return a table of rules, given pairs of a rule and the operations that it handles, separated by spaces."""
    return {name: rule for rule, names in entries for name in names.split()}


def shapes(node: Node) -> list[Shape]:
    """Return the shapes of all operands."""
    return [value.shape for value in node.inputs]


def normalize_dim(index: Any, ndim: int) -> int:
    """Return a dimension index counted from the front."""
    return int(index) % ndim if ndim else 0


def same_positions(node: Node, operand: int, output: int, skip: Sequence[int] = ()) -> list[DimLink]:
    """Return links between dimensions with the same position and size."""
    shape, out = node.inputs[operand].shape, node.outputs[output].shape
    return [
        DimLink(operand, dim, output, dim, size)
        for dim, size in enumerate(shape[: len(out)])
        if dim not in skip and size == out[dim]
    ]


def broadcast(node: Node, operand: int, output: int) -> list[DimLink]:
    """Return the links of an operand that is broadcast to the output, aligned at the last dimension.

    A dimension of size 1 that is expanded has no link.
    """
    shape, out = node.inputs[operand].shape, node.outputs[output].shape
    shift = len(out) - len(shape)
    return [
        DimLink(operand, dim, output, dim + shift, size)
        for dim, size in enumerate(shape)
        if dim + shift >= 0 and size == out[dim + shift]
    ]


def broadcasts(node: Node) -> bool:
    """Return whether the output has the shape to which all operands broadcast."""
    if not node.outputs or not node.inputs:
        return False
    out = node.outputs[0].shape
    given = shapes(node)
    fits = all(
        len(shape) <= len(out) and all(a in (1, b) for a, b in zip(shape[::-1], out[::-1], strict=False))
        for shape in given
    )
    return fits and all(
        size == 1 or any(len(s) > back and s[-1 - back] == size for s in given) for back, size in enumerate(out[::-1])
    )


def pointwise_rule(node: Node) -> DimRelation:
    """Return the relation of an operation that acts on each element separately."""
    return DimRelation(
        [
            link
            for output in range(len(node.outputs))
            for operand in range(len(node.inputs))
            for link in broadcast(node, operand, output)
        ]
    )


def match_by_size(node: Node) -> DimRelation:
    """Return links for an unknown operation: same position and size, or else the only dimension of that size."""
    result = DimRelation()
    for output, value in enumerate(node.outputs):
        for operand, shape in enumerate(shapes(node)):
            for out_dim, size in enumerate(value.shape):
                if len(shape) == len(value.shape) and shape[out_dim] == size:
                    result.links.append(DimLink(operand, out_dim, output, out_dim, size))
                elif size > 1 and shape.count(size) == 1 and value.shape.count(size) == 1:
                    result.links.append(DimLink(operand, shape.index(size), output, out_dim, size))
    return result


def copy_rule(node: Node) -> DimRelation:
    """Return the relation of `copy_(self, src)`: the previous content of `self` is lost."""
    return DimRelation(broadcast(node, 1, 0)) if len(node.inputs) > 1 else pointwise_rule(node)


def like_first(node: Node) -> DimRelation:
    """Return the relation of an operation whose outputs have the shape of the first operand."""
    return DimRelation([link for output in range(len(node.outputs)) for link in same_positions(node, 0, output)])
