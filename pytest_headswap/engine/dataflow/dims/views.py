"""Rules for operations that rearrange elements: views, permutations, slices, concatenation and indexing."""

from __future__ import annotations

import itertools

from pytest_headswap.engine.dataflow.dims.links import (
    DimLink,
    DimRelation,
    Shape,
    match_by_size,
    normalize_dim,
    rule_table,
    same_positions,
    shapes,
)
from pytest_headswap.engine.dataflow.graph import Node

WRITTEN = "is written in part"
"""Why a dimension is partial that holds another tensor in some of its positions."""


def view_factors(old: Shape, new: Shape) -> list[tuple[int, int, int, int, int]]:
    """Return the common factors of two shapes of one contiguous tensor.

    Each factor is (in_dim, in_inner, out_dim, out_inner, size). Dimensions whose boundaries do not divide each other,
    as in (4, 6) to (6, 4), have no common factor. Dimensions of size 1 are paired in order with those between the
    same neighbours. If their numbers differ, each is paired with all, because nothing tells which one stays.
    """
    factors: list[tuple[int, int, int, int, int]] = []
    moved: tuple[list[int], list[int]] = [], []
    for ins, outs in _groups(old, new):
        factors += _group_factors([(dim, old[dim]) for dim in ins], [(dim, new[dim]) for dim in outs])
        before, after = [dim for dim in ins if old[dim] == 1], [dim for dim in outs if new[dim] == 1]
        if bool(before) == bool(after):
            factors += _pair_ones(before, after)
        else:
            moved[0].extend(before)
            moved[1].extend(after)
    return factors + _pair_ones(*moved)


def _pair_ones(before: list[int], after: list[int]) -> list[tuple[int, int, int, int, int]]:
    pairs = zip(before, after, strict=True) if len(before) == len(after) else itertools.product(before, after)
    return [(i, 1, j, 1, 1) for i, j in pairs]


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Split both shapes, from the right, into the shortest runs of dimensions with equal products."""
    groups: list[tuple[list[int], list[int]]] = []
    i, j = len(old), len(new)
    while i > 0 or j > 0:
        ins: list[int] = []
        outs: list[int] = []
        a = b = 1
        while True:
            if a <= b and i > 0 and (a < b or a == 1):
                i -= 1
                ins.insert(0, i)
                a *= old[i]
            elif j > 0 and (b < a or b == 1):
                j -= 1
                outs.insert(0, j)
                b *= new[j]
            else:
                break
            if a == b > 1:
                break
        if not ins and not outs:
            break
        groups.append((ins, outs))
    return groups


def _group_factors(ins: list[tuple[int, int]], outs: list[tuple[int, int]]) -> list[tuple[int, int, int, int, int]]:
    left = [pair for pair in ins if pair[1] != 1]
    right = [pair for pair in outs if pair[1] != 1]
    factors: list[tuple[int, int, int, int, int]] = []
    in_inner = out_inner = 1
    while left and right:
        (i, in_size), (j, out_size) = left[-1], right[-1]
        a, b = in_size // in_inner, out_size // out_inner
        small = min(a, b)
        if small == 0 or max(a, b) % small:
            return []
        factors.append((i, in_inner, j, out_inner, small))
        in_inner, out_inner = in_inner * small, out_inner * small
        if in_inner == in_size:
            left.pop()
            in_inner = 1
        if out_inner == out_size:
            right.pop()
            out_inner = 1
    return factors


def _view(node: Node) -> DimRelation:
    old, new = node.inputs[0].shape, node.outputs[0].shape
    return DimRelation([DimLink(0, i, 0, j, size, a, b) for i, a, j, b, size in view_factors(old, new)])


def _squeeze(node: Node) -> DimRelation:
    """squeeze and unsqueeze: the remaining dimensions keep their order."""
    old, new = node.inputs[0].shape, node.outputs[0].shape
    longer = max(len(old), len(new))
    dims = node.argument(1, "dim")
    if dims is None:
        removed = {dim for dim, size in enumerate(old) if size == 1}
    else:
        removed = {normalize_dim(dim, longer) for dim in (dims if isinstance(dims, tuple) else (dims,))}
        if len(old) >= len(new):
            removed = {dim for dim in removed if old and old[dim] == 1}
    kept = [dim for dim in range(longer) if dim not in removed]
    pairs = enumerate(kept) if len(new) > len(old) else ((source, dim) for dim, source in enumerate(kept))
    return DimRelation([DimLink(0, source, 0, dim, old[source]) for source, dim in pairs])


def _permute(node: Node) -> DimRelation:
    old = node.inputs[0].shape
    if "permute" in node.name:
        order = [normalize_dim(index, len(old)) for index in node.argument(1, "dims")]
    else:
        order = list(range(len(old)))
        if node.name.split("::")[-1].rstrip("_") in ("t", "numpy_T"):
            order.reverse()
        else:
            a = normalize_dim(node.argument(1, "dim0"), len(old))
            b = normalize_dim(node.argument(2, "dim1"), len(old))
            if old:
                order[a], order[b] = order[b], order[a]
    return DimRelation([DimLink(0, source, 0, dim, old[source]) for dim, source in enumerate(order)])


def _select_rule(node: Node) -> DimRelation:
    """select and unbind: one dimension is removed."""
    shape = node.inputs[0].shape
    removed = normalize_dim(node.argument(1, "dim", 0), len(shape))
    kept = [dim for dim in range(len(shape)) if dim != removed]
    return DimRelation(
        [
            DimLink(0, source, output, dim, shape[source])
            for output in range(len(node.outputs))
            for dim, source in enumerate(kept)
        ]
    )


def _slice_rule(node: Node) -> DimRelation:
    """slice, split, pad and similar: positions are kept, and a dimension whose size changes is partial."""
    result = DimRelation()
    shape = node.inputs[0].shape
    for output, value in enumerate(node.outputs):
        result.links += same_positions(node, 0, output)
        for dim, size in enumerate(value.shape):
            if dim < len(shape) and size != shape[dim]:
                result.partial[output, dim] = "is cut from a larger dimension or padded"
    return result


def _split(node: Node) -> DimRelation:
    """split and chunk: as for slices. In equal parts the position within a part is a factor of the dimension."""
    result = _slice_rule(node)
    shape = node.inputs[0].shape
    dim = normalize_dim(node.argument(2, "dim", 0), len(shape))
    size = node.outputs[0].shape[dim] if shape and node.outputs else 0
    if 1 < size < shape[dim] and all(value.shape[dim] == size for value in node.outputs):
        result.links += [DimLink(0, dim, output, dim, size) for output in range(len(node.outputs))]
        result.equal_parts = dim
    return result


def _glu(node: Node) -> DimRelation:
    """glu: one half of a dimension is the gate of the other, so the position within a half is shared."""
    shape = node.inputs[0].shape
    dim = normalize_dim(node.argument(1, "dim", -1), len(shape))
    links = same_positions(node, 0, 0, (dim,))
    return DimRelation([*links, DimLink(0, dim, 0, dim, shape[dim] // 2)])


def _write(node: Node) -> DimRelation:
    """Operations that write a tensor into some positions of another: a dimension written only in part is partial."""
    result = match_by_size(node)
    out = node.outputs[0].shape
    for value in node.inputs[1:]:
        if len(value.shape) == len(out):
            for dim, (size, written) in enumerate(zip(out, value.shape, strict=True)):
                if written < size:
                    result.partial[0, dim] = WRITTEN
    return result


def _cat(node: Node) -> DimRelation:
    out = node.outputs[0].shape
    dim = normalize_dim(node.argument(1, "dim", 0), len(out))
    filled = [index for index, shape in enumerate(shapes(node)) if len(shape) == len(out) and shape[dim] > 0]
    skip = () if len(filled) == 1 else (dim,)
    result = DimRelation([link for operand in filled for link in same_positions(node, operand, 0, skip)])
    if skip:
        result.partial[0, dim] = "is concatenated from several tensors"
    return result


def _stack(node: Node) -> DimRelation:
    out = node.outputs[0].shape
    new = normalize_dim(node.argument(1, "dim", 0), len(out))
    kept = [dim for dim in range(len(out)) if dim != new]
    return DimRelation(
        [
            DimLink(operand, source, 0, dim, out[dim])
            for operand in range(len(node.inputs))
            for source, dim in enumerate(kept)
        ]
    )


def _index(node: Node) -> DimRelation:
    """Advanced indexing: dimensions without an index keep their order around the indexed block."""
    shape, out = node.inputs[0].shape, node.outputs[0].shape
    indices = list(node.argument(1, "indices", ())) + [None] * len(shape)
    given = [dim for dim in range(len(shape)) if indices[dim] is not None]
    kept = [dim for dim in range(len(shape)) if dim not in given]
    block = len(out) - len(kept)
    together = bool(given) and given == list(range(given[0], given[-1] + 1))
    start = given[0] if together else 0
    result = DimRelation()
    for position, source in enumerate(kept):
        dim = position if position < start else position + block
        if 0 <= dim < len(out) and out[dim] == shape[source]:
            result.links.append(DimLink(0, source, 0, dim, out[dim]))
    for dim in range(start, start + block):
        result.partial[0, dim] = "is selected by an index"
    return result


def _index_select(node: Node) -> DimRelation:
    """gather and index_select: one dimension is indexed, the others are kept."""
    out = node.outputs[0].shape
    dim = normalize_dim(node.argument(1, "dim", 0), len(out))
    return DimRelation(same_positions(node, 0, 0, (dim,)), partial={(0, dim): "is selected by an index"})


def _pixel_shuffle(node: Node) -> DimRelation:
    shape, out = node.inputs[0].shape, node.outputs[0].shape
    channel = len(shape) - 3
    links = same_positions(node, 0, 0, range(channel, len(shape)))
    links.append(DimLink(0, channel, 0, channel, out[channel], in_inner=shape[channel] // out[channel]))
    return DimRelation(links)


RULES = rule_table(
    (_view, "view _unsafe_view reshape _reshape_alias view_copy"),
    (_squeeze, "squeeze unsqueeze"),
    (_permute, "permute transpose t numpy_T permute_copy"),
    (_select_rule, "select unbind select_copy"),
    (_slice_rule, "slice narrow constant_pad_nd repeat topk unfold"),
    (_split, "split split_with_sizes unsafe_split unsafe_split_with_sizes"),
    (_glu, "glu"),
    (_write, "aliased_write index_put scatter index_add index_copy slice_scatter select_scatter"),
    (_cat, "cat concat"),
    (_stack, "stack"),
    (_index, "index"),
    (_index_select, "index_select gather"),
    (_pixel_shuffle, "pixel_shuffle"),
)
