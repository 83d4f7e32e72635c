"""What single operations do to the rows of an input that entries of a dimension depend on."""

from __future__ import annotations

import itertools
import math
from functools import reduce
from operator import or_
from typing import NamedTuple

import torch

from pytest_headswap.engine.dataflow.dims.links import normalize_dim
from pytest_headswap.engine.dataflow.graph import INPUT, Node, Value, ancestors
from pytest_headswap.engine.dataflow.trace import ClassAxis

Rows = tuple[int, ...]
"""For each position of a dimension, the set of rows that the entries there depend on, as bits."""

_BITS = 127  # a prime number: more rows than this share bits
_CERTAIN = (1 << _BITS) - 1
SHAPES_ONLY = frozenset(
    f"aten::{name}" for kind in ("zeros", "ones", "full", "empty") for name in (f"{kind}_like", f"new_{kind}")
)
"""Operations that read the shape of a tensor, but not its values."""
ALONG = {
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "softmax", "log_softmax", "sort"), 1),
    **dict.fromkeys(("flip", "renorm"), 1),
    **dict.fromkeys(("roll", "topk", "kthvalue"), 2),
}
"""Operations along a dimension, and the position of the argument that names it."""
PICKING = {"select": 1, "slice": 1, "unbind": 1, "split": 2, "split_with_sizes": 2, "unsafe_split": 2}
_WRITING = frozenset(("index_put", "index_add", "index_copy", "scatter", "scatter_add", "scatter_reduce"))


class Indexing(NamedTuple):
    """A call that reads or writes by index.

    Attributes:
        indices: the tensors of indices.
        dims: the dimension that each of them counts.
        start: the first of the dimensions of the result, or of the values to write, that run over the indices.
        width: their number.
        elementwise: whether the index has an entry for each element.
        writes: whether it writes.
    """

    indices: list[Value]
    dims: list[int]
    start: int
    width: int
    elementwise: bool
    writes: bool


def indexing_of(node: Node, name: str) -> Indexing | None:
    writes = name in _WRITING
    if name in ("index", "index_put"):
        given = {dim: index for dim, index in enumerate(node.argument(1, "indices", ())) if index is not None}
        dims, indices = list(given), list(given.values())
        width = max((len(index.shape) for index in indices), default=0)
        start = dims[0] if dims and dims == list(range(dims[0], dims[-1] + 1)) else 0
        return Indexing(indices, dims, start, width, False, writes)
    if not writes and name not in ("index_select", "gather"):
        return None
    ndim = len(node.inputs[0].shape)
    dim = normalize_dim(node.argument(1, "dim", 0), ndim)
    elementwise = not name.startswith("index")
    start, width = (0, ndim) if elementwise else (dim, 1)
    return Indexing([node.argument(2, "index")], [dim], start, width, elementwise, writes)


def known_positions(index: torch.Tensor | None, size: int) -> list[int] | None:
    """Return the positions that a known index with at most one long dimension picks."""
    if index is None or sum(length > 1 for length in index.shape) > 1:
        return None
    positions: list[int] = (index.nonzero() if index.dtype is torch.bool else index).flatten().tolist()
    return positions if all(-size <= position < size for position in positions) else None


def named_dims(node: Node, position: int) -> set[int]:
    """Return the dimensions that an argument of an operation names."""
    name = short_name(node)
    ndim = len(node.inputs[0].shape)
    default = () if name == "roll" else 0 if name in PICKING or name in ("cat", "concat") else -1
    dims = node.argument(position, "dims" if name in ("roll", "flip") else "dim", default)
    named = dims if isinstance(dims, tuple) else (dims,)
    return {dim % ndim for dim in named if ndim} if named else set(range(ndim))


def pads_of(node: Node, dim: int) -> tuple[int, int]:
    """Return the numbers of positions added before and behind those of a dimension."""
    pads = node.argument(1, "pad")
    position = 2 * (len(node.inputs[0].shape) - 1 - dim)
    return (pads[position], pads[position + 1]) if position < len(pads) else (0, 0)


def moved(node: Node, name: str, rows: Rows, is_plain: bool) -> Rows:
    """Return the rows after an operation along their dimension."""
    everything = reduce(or_, rows, 0)
    if not is_plain:
        return (everything,) * len(rows)
    if name == "flip":
        return rows[::-1]
    if name.startswith(("cum", "logcum")):
        return tuple(itertools.accumulate(rows, or_))
    shifts, dims = node.argument(1, "shifts"), node.argument(2, "dims", ())
    if name == "roll" and isinstance(dims, tuple) and len(dims) == 1:
        shift = (shifts[0] if isinstance(shifts, tuple) else shifts) % len(rows)
        return rows[-shift:] + rows[:-shift] if shift else rows
    return (everything,) * len(rows)


def spans(node: Node, name: str, axis: ClassAxis) -> bool:
    """Return whether a kernel, a norm or a transform extends along the dimension."""
    ndim = len(axis.value.shape)
    if axis.value is not node.inputs[0]:
        return False
    if name.endswith("convolution") or "conv_" in name:
        return axis.dim > ndim - len(node.inputs[1].shape) + 1
    if "pool" in name or name.startswith("upsample"):
        return axis.dim > 1 or (axis.dim == 1 and ndim == 2)
    if "layer_norm" in name or "rms_norm" in name:
        return axis.dim >= ndim - len(node.argument(1, "normalized_shape"))
    if "batch_norm" in name:
        return axis.dim > 1 and True in node.args
    if "group_norm" in name:
        return axis.dim > 0
    if name.startswith("_fft"):
        return axis.dim in named_dims(node, 1)
    return name.startswith("linalg") and name != "linalg_vector_norm" and axis.dim >= ndim - 2


def normalizes_single_entries(node: Node) -> bool:
    """Return whether a layer norm acts on one entry at a time: its result is its bias, whatever the entry."""
    return "layer_norm" in node.name and math.prod(node.argument(1, "normalized_shape")) == 1


def own_rows(size: int) -> Rows:
    """Return the rows of a dimension whose entries depend on their own row only."""
    return tuple(1 << position % _BITS for position in range(size))


def certain(rows: int) -> int:
    """Return the rows that something depends on for certain."""
    return rows & _CERTAIN


def unsure(rows: int) -> int:
    """Return rows that something may depend on."""
    return (rows & ~_CERTAIN) | (rows & _CERTAIN) << _BITS


def inputs_of(value: Value) -> set[Value]:
    """Return the inputs that a value depends on, or the value itself if it is one."""
    own = {value} if value.origin == INPUT else set()
    return {source for node in ancestors([value]) for source in node.inputs if source.origin == INPUT} | own


def short_name(node: Node) -> str:
    name = node.name.rpartition("::")[2]
    return name.rstrip("_").removeprefix("_") if "softmax" in name else name.rstrip("_")
