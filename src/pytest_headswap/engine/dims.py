"""How the dimensions of an operation's outputs come from those of its inputs.

A `Link` says that a dimension of an output and a dimension of an input run over the same index, or
share a factor of it (after `view`). `contracted` pairs are summed over together, as in a matrix
product. With these two facts about each operation the class dimension of an output can be followed
back to the layer that sets it. Operations that are not listed are taken by their shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_headswap.engine.graph import Node

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Link:
    """Input dimension `in_dim` of operand `operand` and `out_dim` of output `output` share `size` indices.

    Both dimensions may be larger than `size`: then the shared index is the factor that varies with
    stride `in_inner` within the input dimension and `out_inner` within the output dimension.
    """

    operand: int
    in_dim: int
    output: int
    out_dim: int
    size: int
    in_inner: int = 1
    out_inner: int = 1


@dataclass
class Relation:
    """All links of one operation, and what it sums over.

    `contracted`: pairs of (operand, dimension) that have to be of one size because they are multiplied
    and summed. `partial`: output dimensions (output, dimension) that are cut out of, or put together
    from, input dimensions, so that their size does not follow one of them; with the reason.
    """

    links: list[Link] = field(default_factory=list)
    contracted: list[tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=list)
    partial: dict[tuple[int, int], str] = field(default_factory=dict)


def relation(node: Node) -> Relation:
    """The relation of the dimensions of one recorded operation."""
    name = node.name.split("::")[-1].rstrip("_")
    rule = _RULES.get(name)
    if rule is None:
        return _pointwise(node) if node.pointwise or _broadcasts(node) else _by_size(node)
    return rule(node)


def _shapes(node: Node) -> list[Shape]:
    return [value.shape for value in node.inputs]


def _dim(index: Any, ndim: int) -> int:
    return int(index) % ndim if ndim else 0


def _same(node: Node, operand: int, output: int, skip: Sequence[int] = ()) -> list[Link]:
    """Links between equal positions, for dimensions of equal size."""
    shape, out = node.inputs[operand].shape, node.outputs[output].shape
    return [
        Link(operand, dim, output, dim, size)
        for dim, size in enumerate(shape[: len(out)])
        if dim not in skip and size == out[dim]
    ]


def _broadcast(node: Node, operand: int, output: int, lead: int | None = None) -> list[Link]:
    """Links of an operand that is broadcast to the output: aligned at the last dimension.

    A dimension of size 1 that is stretched has no link. `lead` bounds the output dimensions used.
    """
    shape, out = node.inputs[operand].shape, node.outputs[output].shape
    shift = len(out) - len(shape)
    return [
        Link(operand, dim, output, dim + shift, size)
        for dim, size in enumerate(shape)
        if dim + shift >= 0 and size == out[dim + shift] and (lead is None or dim + shift < lead)
    ]


def _broadcasts(node: Node) -> bool:
    """Whether the output has the shape to which all operands broadcast."""
    if not node.outputs or not node.inputs:
        return False
    out = node.outputs[0].shape
    shapes = _shapes(node)
    fits = all(
        len(shape) <= len(out) and all(a in (1, b) for a, b in zip(shape[::-1], out[::-1], strict=False))
        for shape in shapes
    )
    return fits and all(
        size == 1 or any(len(s) > back and s[-1 - back] == size for s in shapes) for back, size in enumerate(out[::-1])
    )


def _pointwise(node: Node) -> Relation:
    return Relation(
        [
            link
            for output in range(len(node.outputs))
            for operand in range(len(node.inputs))
            for link in _broadcast(node, operand, output)
        ]
    )


def _by_size(node: Node) -> Relation:
    """For unknown operations: equal positions of equal size, else the only dimension of that size."""
    result = Relation()
    for output, value in enumerate(node.outputs):
        for operand, shape in enumerate(_shapes(node)):
            for out_dim, size in enumerate(value.shape):
                if len(shape) == len(value.shape) and shape[out_dim] == size:
                    result.links.append(Link(operand, out_dim, output, out_dim, size))
                elif size > 1 and shape.count(size) == 1 and value.shape.count(size) == 1:
                    result.links.append(Link(operand, shape.index(size), output, out_dim, size))
    return result


def _copy(node: Node) -> Relation:
    """`copy_(self, src)`: what was in self is gone."""
    return Relation(_broadcast(node, 1, 0)) if len(node.inputs) > 1 else _pointwise(node)


def _first_only(node: Node) -> Relation:
    return Relation([link for output in range(len(node.outputs)) for link in _same(node, 0, output)])


# --- views ------------------------------------------------------------------------------------


def view_factors(old: Shape, new: Shape) -> list[tuple[int, int, int, int, int]]:
    """The common factors of two shapes of one contiguous tensor.

    Returns (in_dim, in_inner, out_dim, out_inner, size) for each. Where boundaries do not divide each
    other, as in (4, 6) to (6, 4), those dimensions have no common factor. Dimensions of size 1 are
    paired in order with those of size 1 that lie between the same neighbours.
    """
    factors: list[tuple[int, int, int, int, int]] = []
    for ins, outs in _groups(old, new):
        factors += _group_factors([(dim, old[dim]) for dim in ins], [(dim, new[dim]) for dim in outs])
    return factors


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Split both shapes, from the right, into the smallest runs of dimensions with equal products."""
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
    ones = zip([d for d, size in ins if size == 1], [d for d, size in outs if size == 1], strict=False)
    factors = [(i, 1, j, 1, 1) for i, j in ones]
    left = [pair for pair in ins if pair[1] != 1]
    right = [pair for pair in outs if pair[1] != 1]
    found: list[tuple[int, int, int, int, int]] = []
    in_inner = out_inner = 1
    while left and right:
        (i, in_size), (j, out_size) = left[-1], right[-1]
        a, b = in_size // in_inner, out_size // out_inner
        small = min(a, b)
        if small == 0 or max(a, b) % small:
            return factors
        found.append((i, in_inner, j, out_inner, small))
        in_inner, out_inner = in_inner * small, out_inner * small
        if in_inner == in_size:
            left.pop()
            in_inner = 1
        if out_inner == out_size:
            right.pop()
            out_inner = 1
    return factors + found


def _view(node: Node) -> Relation:
    old, new = node.inputs[0].shape, node.outputs[0].shape
    return Relation([Link(0, i, 0, j, size, a, b) for i, a, j, b, size in view_factors(old, new)])


def _squeeze(node: Node) -> Relation:
    """squeeze and unsqueeze: the dimensions that stay keep their order."""
    old, new = node.inputs[0].shape, node.outputs[0].shape
    longer = max(len(old), len(new))
    dims = node.argument(1, "dim")
    if dims is None:
        gone = {dim for dim, size in enumerate(old) if size == 1}
    else:
        gone = {_dim(dim, longer) for dim in (dims if isinstance(dims, tuple) else (dims,))}
        if len(old) >= len(new):
            gone = {dim for dim in gone if old and old[dim] == 1}
    kept = [dim for dim in range(longer) if dim not in gone]
    pairs = enumerate(kept) if len(new) > len(old) else ((source, dim) for dim, source in enumerate(kept))
    return Relation([Link(0, source, 0, dim, old[source]) for source, dim in pairs])


def _permute(node: Node) -> Relation:
    old = node.inputs[0].shape
    if "permute" in node.name:
        order = [_dim(index, len(old)) for index in node.argument(1, "dims")]
    else:
        order = list(range(len(old)))
        if node.name.split("::")[-1].rstrip("_") in ("t", "numpy_T"):
            order.reverse()
        else:
            a = _dim(node.argument(1, "dim0"), len(old))
            b = _dim(node.argument(2, "dim1"), len(old))
            if old:
                order[a], order[b] = order[b], order[a]
    return Relation([Link(0, source, 0, dim, old[source]) for dim, source in enumerate(order)])


def _dropped(node: Node) -> Relation:
    """select, unbind: one dimension goes."""
    shape = node.inputs[0].shape
    gone = _dim(node.argument(1, "dim", 0), len(shape))
    kept = [dim for dim in range(len(shape)) if dim != gone]
    return Relation(
        [
            Link(0, source, output, dim, shape[source])
            for output in range(len(node.outputs))
            for dim, source in enumerate(kept)
        ]
    )


def _cut(node: Node) -> Relation:
    """slice, split, pad and their like: equal positions; a dimension that changes its size is a part."""
    result = Relation()
    shape = node.inputs[0].shape
    for output, value in enumerate(node.outputs):
        result.links += _same(node, 0, output)
        for dim, size in enumerate(value.shape):
            if dim < len(shape) and size != shape[dim]:
                result.partial[output, dim] = "is cut out of a larger dimension or padded"
    return result


def _cat(node: Node) -> Relation:
    out = node.outputs[0].shape
    dim = _dim(node.argument(1, "dim", 0), len(out))
    filled = [index for index, shape in enumerate(_shapes(node)) if len(shape) == len(out) and shape[dim] > 0]
    skip = () if len(filled) == 1 else (dim,)
    result = Relation([link for operand in filled for link in _same(node, operand, 0, skip)])
    if skip:
        result.partial[0, dim] = "is concatenated from several tensors"
    return result


def _stack(node: Node) -> Relation:
    out = node.outputs[0].shape
    new = _dim(node.argument(1, "dim", 0), len(out))
    kept = [dim for dim in range(len(out)) if dim != new]
    return Relation(
        [
            Link(operand, source, 0, dim, out[dim])
            for operand in range(len(node.inputs))
            for source, dim in enumerate(kept)
        ]
    )


def _index(node: Node) -> Relation:
    """Advanced indexing: dimensions without an index keep their order around the indexed block."""
    shape, out = node.inputs[0].shape, node.outputs[0].shape
    indices = list(node.argument(1, "indices", ())) + [None] * len(shape)
    given = [dim for dim in range(len(shape)) if indices[dim] is not None]
    kept = [dim for dim in range(len(shape)) if dim not in given]
    block = len(out) - len(kept)
    together = bool(given) and given == list(range(given[0], given[-1] + 1))
    start = given[0] if together else 0
    result = Relation()
    for position, source in enumerate(kept):
        dim = position if position < start else position + block
        if 0 <= dim < len(out) and out[dim] == shape[source]:
            result.links.append(Link(0, source, 0, dim, out[dim]))
    for dim in range(start, start + block):
        result.partial[0, dim] = "is picked by an index"
    return result


def _index_select(node: Node) -> Relation:
    """gather, index_select: the indexed dimension is picked, the others stay."""
    out = node.outputs[0].shape
    dim = _dim(node.argument(1, "dim", 0), len(out))
    return Relation(_same(node, 0, 0, (dim,)), partial={(0, dim): "is picked by an index"})


def _pixel_shuffle(node: Node) -> Relation:
    shape, out = node.inputs[0].shape, node.outputs[0].shape
    channel = len(shape) - 3
    links = _same(node, 0, 0, range(channel, len(shape)))
    links.append(Link(0, channel, 0, channel, out[channel], in_inner=shape[channel] // out[channel]))
    return Relation(links)


# --- reductions and normalisation ---------------------------------------------------------------


def _reduce(node: Node) -> Relation:
    shape = node.inputs[0].shape
    dims = node.argument(1, "ord" if "vector_norm" in node.name else "dim")
    if "vector_norm" in node.name or node.name.endswith("::norm"):
        dims = node.argument(2, "dim")
    if isinstance(dims, bool) or dims is None or dims == ():
        gone = set(range(len(shape)))
    else:
        gone = {_dim(dim, len(shape)) for dim in (dims if isinstance(dims, tuple) else (dims,))}
    result = Relation()
    for output, value in enumerate(node.outputs):
        keep = len(value.shape) == len(shape)
        position = 0
        for dim, size in enumerate(shape):
            if dim not in gone and position < len(value.shape) and value.shape[position] == size:
                result.links.append(Link(0, dim, output, position, size))
            if keep or dim not in gone:
                position += 1
    return result


def _channel_norm(node: Node) -> Relation:
    """Batch, group and instance norm: weights and statistics belong to dimension 1."""
    result = Relation(_same(node, 0, 0))
    width = node.outputs[0].shape[1] if len(node.outputs[0].shape) > 1 else 0
    for operand in range(1, len(node.inputs)):
        if node.inputs[operand].shape == (width,):
            result.links.append(Link(operand, 0, 0, 1, width))
    return result


def _last_norm(node: Node) -> Relation:
    """Layer and RMS norm: weights belong to the last dimensions."""
    return Relation(_same(node, 0, 0) + [x for op in range(1, len(node.inputs)) for x in _broadcast(node, op, 0)])


# --- products -----------------------------------------------------------------------------------


def _product(node: Node, a: int, b: int, bias: int | None = None) -> Relation:
    """Matrix product of operands `a` (..., n, k) and `b` (..., k, m), each possibly a vector."""
    left, right, out = node.inputs[a].shape, node.inputs[b].shape, node.outputs[0].shape
    result = Relation()
    result.contracted.append(((a, len(left) - 1), (b, max(len(right) - 2, 0))))
    last = len(out) - 1
    if len(right) > 1:
        result.links.append(Link(b, len(right) - 1, 0, last, right[-1]))
        last -= 1
    if len(left) > 1:
        result.links.append(Link(a, len(left) - 2, 0, last, left[-2]))
        last -= 1
    for operand, shape in ((a, left), (b, right)):
        for back, size in enumerate(shape[:-2][::-1]):
            dim = last - back
            if dim >= 0 and out[dim] == size:
                result.links.append(Link(operand, len(shape) - 3 - back, 0, dim, size))
    if bias is not None:
        result.links += _broadcast(node, bias, 0)
    return result


def _mm(node: Node) -> Relation:
    return _product(node, 0, 1)


def _addmm(node: Node) -> Relation:
    return _product(node, 1, 2, bias=0)


def _linear(node: Node) -> Relation:
    """`linear(x, weight, bias)`, for backends that keep it whole: weight is (out, in)."""
    x, out = node.inputs[0].shape, node.outputs[0].shape
    result = Relation([Link(0, dim, 0, dim, size) for dim, size in enumerate(x[:-1])])
    result.contracted.append(((0, len(x) - 1), (1, 1)))
    result.links.append(Link(1, 0, 0, len(out) - 1, out[-1]))
    if len(node.inputs) > 2:
        result.links.append(Link(2, 0, 0, len(out) - 1, out[-1]))
    return result


def _convolution(node: Node) -> Relation:
    """Weight (out, in / groups, ...), transposed (in, out / groups, ...); bias (out)."""
    x, out = node.inputs[0].shape, node.outputs[0].shape
    groups = int(node.argument(8, "groups", 1)) if node.name.endswith("convolution") else 1
    transposed = bool(node.argument(6, "transposed", False))
    channel = 1 if len(x) == len(node.inputs[1].shape) else 0
    links = [Link(0, 0, 0, 0, x[0])] if channel else []
    links += [Link(0, dim, 0, dim, x[dim]) for dim in range(channel + 1, len(x)) if out[dim] == x[dim] > 1]
    weight_dim = 1 if transposed else 0
    links.append(Link(1, weight_dim, 0, channel, node.inputs[1].shape[weight_dim]))
    if len(node.inputs) > 2:
        links.append(Link(2, 0, 0, channel, out[channel]))
    result = Relation(links)
    if groups == 1:
        result.contracted.append(((0, channel), (1, 0 if transposed else 1)))
    elif node.inputs[1].shape[1] == 1 and x[channel] == out[channel]:
        result.links.append(Link(0, channel, 0, channel, out[channel]))  # depthwise: channels pass through
    else:
        result.contracted.append(((0, channel), (1, 0)))
    return result


def _attention(node: Node) -> Relation:
    """Scaled dot product attention: (..., L, E), (..., S, E), (..., S, V) to (..., L, V)."""
    q, k, v = (node.inputs[index].shape for index in range(3))
    last = len(q) - 1
    links = [Link(0, dim, 0, dim, q[dim]) for dim in range(last) if node.outputs[0].shape[dim] == q[dim]]
    links.append(Link(2, last, 0, last, v[-1]))
    return Relation(links, [((0, last), (1, last)), ((1, len(k) - 2), (2, len(v) - 2))])


def _embedding(node: Node) -> Relation:
    out = node.outputs[0].shape
    index = node.inputs[1].shape
    links = [Link(1, dim, 0, dim, size) for dim, size in enumerate(index)]
    return Relation([*links, Link(0, 1, 0, len(out) - 1, out[-1])])


def _trilinear(node: Node) -> Relation:
    """`_trilinear(a, b, c, expand_a, expand_b, expand_c, sum)`: what `nn.Bilinear` runs.

    Each operand has all dimensions of the product but those in its `expand` list; those in `sum` go.
    """
    summed = set(node.argument(6, "sumdim", ()))
    total = len(node.inputs[0].shape) + len(node.argument(3, "expand1", ()))
    kept = [dim for dim in range(total) if dim not in summed]
    result = Relation()
    holders: dict[int, list[tuple[int, int]]] = {}
    for operand in range(3):
        own = [dim for dim in range(total) if dim not in node.argument(3 + operand, f"expand{operand + 1}", ())]
        for position, dim in enumerate(own):
            if dim in summed:
                holders.setdefault(dim, []).append((operand, position))
            else:
                result.links.append(Link(operand, position, 0, kept.index(dim), node.inputs[operand].shape[position]))
    result.contracted = [(own[0], other) for own in holders.values() for other in own[1:]]
    return result


def _cdist(node: Node) -> Relation:
    """Distances of rows: (..., n, k), (..., m, k) to (..., n, m)."""
    a, b, out = node.inputs[0].shape, node.inputs[1].shape, node.outputs[0].shape
    links = [Link(0, len(a) - 2, 0, len(out) - 2, a[-2]), Link(1, len(b) - 2, 0, len(out) - 1, b[-2])]
    return Relation(links, [((0, len(a) - 1), (1, len(b) - 1))])


_RULES: dict[str, Callable[[Node], Relation]] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy"), _view),
    **dict.fromkeys(("squeeze", "unsqueeze"), _squeeze),
    **dict.fromkeys(("permute", "transpose", "t", "numpy_T", "permute_copy"), _permute),
    **dict.fromkeys(("select", "unbind", "select_copy"), _dropped),
    **dict.fromkeys(
        ("slice", "split", "split_with_sizes", "narrow", "constant_pad_nd", "repeat", "topk", "unfold"), _cut
    ),
    **dict.fromkeys(("cat", "concat"), _cat),
    "stack": _stack,
    "index": _index,
    **dict.fromkeys(("index_select", "gather"), _index_select),
    "pixel_shuffle": _pixel_shuffle,
    "copy": _copy,
    **dict.fromkeys(
        (
            "mean",
            "sum",
            "amax",
            "amin",
            "max",
            "min",
            "argmax",
            "logsumexp",
            "prod",
            "any",
            "all",
            "std",
            "var",
            "var_mean",
            "median",
            "linalg_vector_norm",
            "norm",
        ),
        _reduce,
    ),
    **dict.fromkeys(
        (
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "cudnn_batch_norm",
            "_batch_norm_with_update",
            "_batch_norm_no_update",
            "miopen_batch_norm",
            "native_group_norm",
        ),
        _channel_norm,
    ),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm", "rms_norm"), _last_norm),
    **dict.fromkeys(
        (
            "_softmax",
            "_log_softmax",
            "softmax",
            "log_softmax",
            "cumsum",
            "roll",
            "flip",
            "native_dropout",
            "_masked_softmax",
            "sort",
            "zero",
            "fill",
        ),
        _first_only,
    ),
    **dict.fromkeys(("mm", "bmm", "matmul", "mv", "dot", "vdot"), _mm),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _addmm),
    "linear": _linear,
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable"), _convolution),
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_attention_math",
            "_scaled_dot_product_fused_attention_overrideable",
            "_scaled_dot_product_cudnn_attention",
        ),
        _attention,
    ),
    "embedding": _embedding,
    "_trilinear": _trilinear,
    **dict.fromkeys(("_cdist_forward", "cdist", "_euclidean_dist"), _cdist),
}
