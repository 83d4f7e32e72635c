"""Rules for operations that multiply and sum: matrix products, convolutions, attention."""

from __future__ import annotations

from pytest_headswap.engine.dataflow.dims.links import DimLink, DimRelation, broadcast, rule_table
from pytest_headswap.engine.dataflow.graph import Node


def _product(node: Node, a: int, b: int, bias: int | None = None) -> DimRelation:
    """Matrix product of operands `a` (..., n, k) and `b` (..., k, m). Either may be a vector."""
    left, right, out = node.inputs[a].shape, node.inputs[b].shape, node.outputs[0].shape
    result = DimRelation()
    result.contracted.append(((a, len(left) - 1), (b, max(len(right) - 2, 0))))
    last = len(out) - 1
    if len(right) > 1:
        result.links.append(DimLink(b, len(right) - 1, 0, last, right[-1]))
        last -= 1
    if len(left) > 1:
        result.links.append(DimLink(a, len(left) - 2, 0, last, left[-2]))
        last -= 1
    for operand, shape in ((a, left), (b, right)):
        for back, size in enumerate(shape[:-2][::-1]):
            dim = last - back
            if dim >= 0 and out[dim] == size:
                result.links.append(DimLink(operand, len(shape) - 3 - back, 0, dim, size))
    if bias is not None:
        result.links += broadcast(node, bias, 0)
    return result


def _mm(node: Node) -> DimRelation:
    return _product(node, 0, 1)


def _addmm(node: Node) -> DimRelation:
    return _product(node, 1, 2, bias=0)


def _addbmm(node: Node) -> DimRelation:
    """Sum of a batch of matrix products: (b, n, k) and (b, k, m) to (n, m)."""
    left, right = node.inputs[1].shape, node.inputs[2].shape
    links = [DimLink(1, 1, 0, 0, left[1]), DimLink(2, 2, 0, 1, right[2]), *broadcast(node, 0, 0)]
    return DimRelation(links, [((1, 2), (2, 1)), ((1, 0), (2, 0))])


def _linear(node: Node) -> DimRelation:
    """`linear(x, weight, bias)`, for backends that do not decompose it. The weight is (out, in)."""
    x, out = node.inputs[0].shape, node.outputs[0].shape
    result = DimRelation([DimLink(0, dim, 0, dim, size) for dim, size in enumerate(x[:-1])])
    result.contracted.append(((0, len(x) - 1), (1, 1)))
    result.links.append(DimLink(1, 0, 0, len(out) - 1, out[-1]))
    if len(node.inputs) > 2:
        result.links.append(DimLink(2, 0, 0, len(out) - 1, out[-1]))
    return result


def _convolution(node: Node) -> DimRelation:
    """Convolution: weight (out, in / groups, ...), or (in, out / groups, ...) if transposed, and bias (out)."""
    x, out = node.inputs[0].shape, node.outputs[0].shape
    groups = int(node.argument(8, "groups", 1)) if node.name.endswith("convolution") else 1
    transposed = bool(node.argument(6, "transposed", False))
    channel = 1 if len(x) == len(node.inputs[1].shape) else 0
    links = [DimLink(0, 0, 0, 0, x[0])] if channel else []
    links += [DimLink(0, dim, 0, dim, x[dim]) for dim in range(channel + 1, len(x)) if out[dim] == x[dim] > 1]
    weight_dim = 1 if transposed else 0
    links.append(DimLink(1, weight_dim, 0, channel, node.inputs[1].shape[weight_dim]))
    if len(node.inputs) > 2:
        links.append(DimLink(2, 0, 0, channel, out[channel]))
    result = DimRelation(links)
    if groups == 1:
        result.contracted.append(((0, channel), (1, 0 if transposed else 1)))
    elif node.inputs[1].shape[1] == 1 and x[channel] == out[channel]:
        result.links.append(DimLink(0, channel, 0, channel, out[channel]))  # depthwise: channels pass through
    else:
        result.contracted.append(((0, channel), (1, 0)))
    return result


def _attention(node: Node) -> DimRelation:
    """Scaled dot-product attention: (..., L, E), (..., S, E) and (..., S, V) to (..., L, V)."""
    q, k, v = (node.inputs[index].shape for index in range(3))
    last = len(q) - 1
    links = [DimLink(0, dim, 0, dim, q[dim]) for dim in range(last) if node.outputs[0].shape[dim] == q[dim]]
    links += [
        DimLink(operand, dim, 0, dim, q[dim]) for operand in (1, 2) for dim in range(last - 1) if k[dim] == q[dim]
    ]
    links.append(DimLink(2, last, 0, last, v[-1]))
    return DimRelation(links, [((0, last), (1, last)), ((1, len(k) - 2), (2, len(v) - 2))])


def _embedding(node: Node) -> DimRelation:
    out = node.outputs[0].shape
    index = node.inputs[1].shape
    links = [DimLink(1, dim, 0, dim, size) for dim, size in enumerate(index)]
    return DimRelation([*links, DimLink(0, 1, 0, len(out) - 1, out[-1])])


def _embedding_bag(node: Node) -> DimRelation:
    """Sum or mean of rows of a table (rows, width) for each bag: (bags, width). Other outputs are positions."""
    return DimRelation([DimLink(0, 1, 0, 1, node.outputs[0].shape[1])])


def _trilinear(node: Node) -> DimRelation:
    """`_trilinear(a, b, c, expand_a, expand_b, expand_c, sum)`, which implements `nn.Bilinear`.

    Each operand has all dimensions of the product except those in its `expand` list. The dimensions in `sum` are
    summed over.
    """
    summed = set(node.argument(6, "sumdim", ()))
    total = len(node.inputs[0].shape) + len(node.argument(3, "expand1", ()))
    kept = [dim for dim in range(total) if dim not in summed]
    result = DimRelation()
    holders: dict[int, list[tuple[int, int]]] = {}
    for operand in range(3):
        own = [dim for dim in range(total) if dim not in node.argument(3 + operand, f"expand{operand + 1}", ())]
        for position, dim in enumerate(own):
            if dim in summed:
                holders.setdefault(dim, []).append((operand, position))
            else:
                result.links.append(
                    DimLink(operand, position, 0, kept.index(dim), node.inputs[operand].shape[position])
                )
    result.contracted = [(own[0], other) for own in holders.values() for other in own[1:]]
    return result


def _cdist(node: Node) -> DimRelation:
    """Pairwise distances of rows: (..., n, k) and (..., m, k) to (..., n, m)."""
    a, b, out = node.inputs[0].shape, node.inputs[1].shape, node.outputs[0].shape
    links = [DimLink(0, len(a) - 2, 0, len(out) - 2, a[-2]), DimLink(1, len(b) - 2, 0, len(out) - 1, b[-2])]
    return DimRelation(links, [((0, len(a) - 1), (1, len(b) - 1))])


RULES = rule_table(
    (_mm, "mm bmm matmul mv dot vdot"),
    (_addmm, "addmm baddbmm addmv"),
    (_addbmm, "addbmm"),
    (_linear, "linear"),
    (_convolution, "convolution _convolution convolution_overrideable"),
    (
        _attention,
        (
            "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
            "_scaled_dot_product_efficient_attention _scaled_dot_product_attention_math "
            "_scaled_dot_product_fused_attention_overrideable _scaled_dot_product_cudnn_attention"
        ),
    ),
    (_embedding, "embedding"),
    (_embedding_bag, "_embedding_bag _embedding_bag_forward_only"),
    (_trilinear, "_trilinear"),
    (_cdist, "_cdist_forward cdist _euclidean_dist"),
)
