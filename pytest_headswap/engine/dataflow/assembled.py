"""Find the tensor that the parts of an assembled dimension are taken from.

`torch.stack([x @ w[:, j] for j in range(classes)], 1)` has no operation that passes the class dimension on. Its parts
select each index of one dimension of `w` once, so that dimension sets the size of the stacked one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pytest_headswap.engine.dataflow.dims.links import normalize_dim
from pytest_headswap.engine.dataflow.graph import Node, Value, ancestors

ALIASED_WRITE = "headswap::aliased_write"
"""Name of the node for a write to another view of the same storage (`out[:, 0] = ...`)."""


class Selected(NamedTuple):
    """A position in dimension `dim` of a tensor, and the operation and operand where it meets data from the input."""

    value: Value
    dim: int
    position: int
    node: Node
    operand: int


def parts_of(node: Node, dim: int) -> list[Value]:
    """Return the values that dimension `dim` of a result is assembled from, one for each index; empty if unknown."""
    if node.name == ALIASED_WRITE:
        return _written_parts(node, dim)
    operation = node.name.split("::")[-1]
    if operation in ("stack", "cat", "concat") and node.outputs:
        shape = node.outputs[0].shape
        single = operation == "stack" or all(len(x.shape) == len(shape) and x.shape[dim] == 1 for x in node.inputs)
        if single and normalize_dim(node.argument(1, "dim", 0), len(shape)) == dim and shape[dim] == len(node.inputs):
            return [_without_new_dim(value, dim) for value in node.inputs]
    return []


def _without_new_dim(value: Value, dim: int) -> Value:
    """Return the value before `unsqueeze` made the dimension along which it is concatenated: together they stack."""
    node = value.node
    if node is None or node.name != "aten::unsqueeze":
        return value
    return node.inputs[0] if normalize_dim(node.argument(1, "dim"), len(value.shape)) == dim else value


def reassembled_dim(node: Node, parts: Sequence[Value]) -> tuple[Value, int] | None:
    """Return the tensor and dimension whose indices, in their order, are the parts that a stack is assembled from."""
    if len(parts) < 2 or node.name == ALIASED_WRITE:  # the links of a write lead there already
        return None
    found = [(base, dim, index) for part in parts for base, dim, index in _selections_of(part)]
    base, dim, _ = found[0] if found else (parts[0], 0, 0)
    in_order = found == [(base, dim, index) for index in range(len(parts))]
    return (base, dim) if in_order and base.shape[dim] == len(parts) else None


def _written_parts(node: Node | None, dim: int) -> list[Value]:
    """Return the parts that a loop wrote to the indices of a dimension (`out[:, j] = ...`)."""
    parts: dict[int, Value] = {}
    size = node.outputs[0].shape[dim] if node is not None else 0
    while node is not None and node.name == ALIASED_WRITE and len(parts) < size:
        before, written = node.inputs
        write = written.node
        if write is not None and write.name == "aten::copy_":
            for base, own, index in _selections_of(write.inputs[0]):
                if own == dim and base.shape == before.shape:
                    parts.setdefault(index, write.inputs[-1])
        node = before.node
    return [parts[index] for index in range(size)] if set(parts) == set(range(size)) else []


def own_nodes(parts: Sequence[Value]) -> Iterator[set[Node]]:
    """Yield, for each part, the operations on data from the input that only this part is computed with."""
    common = ancestors(parts[:1]) & ancestors(parts[1:2])
    for part in parts:
        own: set[Node] = set()
        stack = [part.node]
        while stack:
            node = stack.pop()
            if node is not None and node not in own and node not in common:
                own.add(node)
                stack += [value.node for value in node.inputs if value.from_input]
        yield own


def selections(parts: Sequence[Value]) -> Iterator[list[Selected]]:
    """Yield, for each part, the indices of model tensors that only this part is computed with."""
    for own in own_nodes(parts):
        yield [
            Selected(base, dim, index, node, operand)
            for node in own
            for operand, value in enumerate(node.inputs)
            if not value.from_input
            for base, dim, index in selections_before(value)
            if base.shape[dim] == len(parts)
        ]


def selections_within(value: Value, passes: Callable[[Node], bool]) -> Iterator[tuple[Value, int, int]]:
    """Yield each tensor, dimension and index that data from the input is selected from before a value.

    The value is followed back through the operations that `passes` accepts.
    """
    visited: set[Node] = set()
    stack = [value]
    while stack:
        value = stack.pop()
        node = value.node
        if node is None or not value.from_input:
            continue
        yield from _selections_of(value)
        if node not in visited and passes(node):
            visited.add(node)
            stack += node.inputs


def selections_before(value: Value) -> Iterator[tuple[Value, int, int]]:
    """Yield each tensor, dimension and index that a value selects.

    A value that depends on the input is followed only through views.
    """
    visited: set[Node] = set()
    stack = [value]
    while stack:
        value = stack.pop()
        node = value.node
        if node is None or node in visited:
            continue
        visited.add(node)
        yield from _selections_of(value)
        if not value.from_input or node.name in _VIEWS:
            stack += node.inputs


def _selections_of(value: Value) -> Iterator[tuple[Value, int, int]]:
    """Yield the tensor, the dimension and the index that a value selects, if it selects a single index."""
    node = value.node
    if node is None or not node.inputs:
        return
    base = _before_whole_slices(node.inputs[0])
    dim = normalize_dim(node.argument(1, "dim", 0), len(base.shape)) if node.name in _DIM_SECOND else 0
    if node.name == "aten::select":
        yield base, dim, int(node.argument(2, "index")) % base.shape[dim]
    elif node.name == "aten::slice" and value.shape[dim] == 1:
        yield base, dim, int(node.argument(2, "start") or 0) % base.shape[dim]
    elif node.name == "aten::unbind":
        yield base, dim, value.index
    elif node.name in ("aten::split", "aten::split_with_sizes"):
        dim = normalize_dim(node.argument(2, "dim", 0), len(base.shape))
        if all(output.shape[dim] == 1 for output in node.outputs):
            yield base, dim, value.index


def _before_whole_slices(value: Value) -> Value:
    """Return the value before slices that take everything: torch before 2.12 records one for each `:` of an index."""
    node = value.node
    while node is not None and node.name == "aten::slice" and node.inputs[0].shape == value.shape:
        value = node.inputs[0]
        node = value.node
    return value


_VIEWS = ("aten::unsqueeze", "aten::view", "aten::slice", "aten::expand")
_DIM_SECOND = ("aten::select", "aten::slice", "aten::unbind")
