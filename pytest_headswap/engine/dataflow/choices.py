"""Find the dimension over which a model chose what it returns: the best index by arg-max, or the best score."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_headswap.engine.dataflow.dims import relation
from pytest_headswap.engine.dataflow.graph import Choice, Node, Value

_DIM_ARGUMENT = {
    **dict.fromkeys(("argmax", "argmin", "max", "min", "median", "nanmedian", "amax", "amin"), (1, None)),
    **dict.fromkeys(("mode", "sort", "argsort"), (1, -1)),
    **dict.fromkeys(("topk", "kthvalue"), (2, -1)),
    "multinomial": (4, -1),
    "nonzero": (1, None),
}
"""Position and default of the argument `dim` of each operation that chooses entries. None: among all entries.

`multinomial` and `nonzero` have no such argument.
"""

_SELECTING = frozenset(("index", "gather", "index_select", "masked_select", "take_along_dim", "take"))
_RESHAPING = frozenset(
    (
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "permute", "transpose", "t"),
        *("expand", "clone", "_to_copy", "detach", "alias", "contiguous", "select", "slice", "unbind", "split"),
        *("split_with_sizes", "cat", "stack", "repeat", "flip", "lift_fresh"),
    )
)


def find_choices(label: str, value: Value, holds_indices: bool) -> Iterator[Choice]:
    """Yield the dimensions over which the entries of an output were chosen.

    The output is followed back through reshapes, selections and, if it holds indices, arithmetic.
    """
    visited: set[Node] = set()
    fixed_sizes: set[int] = set()  # of constants that the index is compared with, as in `one_hot`
    stack = [value]
    while stack:
        node = stack.pop().node
        if node is None or node in visited:
            continue
        visited.add(node)
        name = _name(node)
        if name in _DIM_ARGUMENT:
            operand = node.inputs[0]
            position, default = _DIM_ARGUMENT[name]
            dims = node.argument(position, "dim", default)
            if not isinstance(dims, (int, tuple)):
                dims = tuple(range(len(operand.shape)))
            dims = (dims,) if isinstance(dims, int) else dims
            for dim in dims if operand.shape else ():
                is_flat = len(dims) > 1 or operand.shape[dim] in fixed_sizes
                yield from _separate(label, operand, dim % len(operand.shape), is_flat)
        elif name in _SELECTING:
            table, *indices = node.inputs
            stack += [table] if table.from_input else indices
        elif name in _RESHAPING or (holds_indices and node.pointwise):
            stack += node.inputs
            fixed_sizes.update(size for value in node.inputs if not value.from_input for size in value.shape)


def _name(node: Node) -> str:
    """Return the name of an operation without its namespace; in-place variants have the same name."""
    return node.name.split("::")[-1].rstrip("_")


def _separate(label: str, value: Value, dim: int, is_flat: bool) -> Iterator[Choice]:
    """Yield the dimension, or the dimensions that a reshape merged into it."""
    start = value, dim
    while value.node is not None:
        node = value.node
        links = [link for link in relation(node).links if (link.output, link.out_dim) == (value.index, dim)]
        parts = {(link.operand, link.in_dim) for link in links if node.inputs[link.operand].shape[link.in_dim] > 1}
        if len({operand for operand, _ in parts}) != 1 or not (node.pointwise or _name(node) in _RESHAPING):
            break
        if len(parts) > 1:
            for operand, in_dim in sorted(parts):
                yield from _separate(label, node.inputs[operand], in_dim, is_flat=True)
            return
        [(operand, dim)] = parts
        value = node.inputs[operand]
    yield Choice(label, *start, is_flat)
