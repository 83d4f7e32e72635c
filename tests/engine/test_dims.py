"""Each dimension rule gives exactly the expected links between the inputs and the output of its operation."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pytest_headswap.engine.abstract.meta_cache import cached_meta_op
from pytest_headswap.engine.dataflow.assembled import ALIASED_WRITE
from pytest_headswap.engine.dataflow.dim_tracer import ClassAxis, Tracer
from pytest_headswap.engine.dataflow.dims import RULES, relation
from pytest_headswap.engine.dataflow.dims.views import view_factors
from pytest_headswap.engine.dataflow.graph import ATTRIBUTE, Graph
from pytest_headswap.engine.dataflow.recording_mode import Recorder

Shape = tuple[int, ...]


def recorded(function: Callable[..., Any], shapes: list[Shape]) -> Graph:
    """Return the data flow of `function` on tensors named 0, 1, ... The last operation computes the output."""
    graph = Graph(training=False)
    recorder = Recorder(graph, cached_meta_op)
    tensors = [torch.empty(shape, device="meta") for shape in shapes]
    for index, tensor in enumerate(tensors):
        recorder.add_source(tensor, ATTRIBUTE, str(index))
    with torch.no_grad(), recorder:
        function(*tensors)
    graph.outputs["output"] = graph.nodes[-1].outputs[0]
    return graph


def links_through(graph: Graph) -> set[tuple[int, int, int]]:
    """Return (input number, input dimension, output dimension) for each whole dimension that reaches the output."""
    tracer = Tracer(graph)
    output = graph.outputs["output"]
    return {
        (int(axis.value.name), axis.dim, dim)
        for dim, size in enumerate(output.shape)
        for axis in tracer.trace_back(ClassAxis(output, dim), size).sources
        if axis.value.names and axis.value.shape[axis.dim] == size
    }


# name, function, input shapes, expected links: (input, input dimension, output dimension)
CASES: list[tuple[str, Callable[..., Any], list[Shape], set[tuple[int, int, int]]]] = [
    ("add", torch.add, [(2, 5), (5,)], {(0, 0, 0), (0, 1, 1), (1, 0, 1)}),
    ("add_stretched", torch.add, [(2, 5), (2, 1)], {(0, 0, 0), (0, 1, 1), (1, 0, 0)}),
    ("where", lambda c, x, y: torch.where(c > 0, x, y), [(2, 5), (2, 5), (5,)],
     {(0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 1, 1), (2, 0, 1)}),
    ("mm", torch.mm, [(2, 3), (3, 5)], {(0, 0, 0), (1, 1, 1)}),
    ("bmm", torch.bmm, [(4, 2, 3), (4, 3, 5)], {(0, 0, 0), (1, 0, 0), (0, 1, 1), (1, 2, 2)}),
    ("mv", torch.mv, [(5, 3), (3,)], {(0, 0, 0)}),
    ("addbmm", torch.addbmm, [(5,), (4, 2, 3), (4, 3, 5)], {(0, 0, 1), (1, 1, 0), (2, 2, 1)}),
    ("addmm", torch.addmm, [(5,), (2, 3), (3, 5)], {(0, 0, 1), (1, 0, 0), (2, 1, 1)}),
    ("linear_2d", functional.linear, [(2, 3), (5, 3), (5,)], {(0, 0, 0), (1, 0, 1), (2, 0, 1)}),
    ("linear_3d", functional.linear, [(2, 4, 3), (5, 3), (5,)], {(0, 0, 0), (0, 1, 1), (1, 0, 2), (2, 0, 2)}),
    ("einsum", partial(torch.einsum, "btk,ck->btc"), [(2, 4, 3), (5, 3)], {(0, 0, 0), (0, 1, 1), (1, 0, 2)}),
    ("conv1d", functional.conv1d, [(2, 3, 9), (5, 3, 3), (5,)], {(0, 0, 0), (1, 0, 1), (2, 0, 1)}),
    ("conv2d", lambda x, w: functional.conv2d(x, w, padding=1), [(2, 3, 8, 9), (5, 3, 3, 3)],
     {(0, 0, 0), (1, 0, 1), (0, 2, 2), (0, 3, 3)}),
    ("conv_transpose2d", lambda x, w: functional.conv_transpose2d(x, w, stride=2), [(2, 3, 8, 9), (3, 5, 2, 2)],
     {(0, 0, 0), (1, 1, 1)}),
    ("permute", lambda x: x.permute(2, 0, 1), [(2, 3, 5)], {(0, 2, 0), (0, 0, 1), (0, 1, 2)}),
    ("transpose", lambda x: x.transpose(-1, 0), [(2, 3, 5)], {(0, 2, 0), (0, 1, 1), (0, 0, 2)}),
    ("t", lambda x: x.t(), [(2, 3)], {(0, 1, 0), (0, 0, 1)}),
    ("select", lambda x: x.select(1, 0), [(2, 3, 5)], {(0, 0, 0), (0, 2, 1)}),
    ("slice", lambda x: x[:, 1:], [(2, 3, 5)], {(0, 0, 0), (0, 2, 2)}),
    ("split", lambda x: x.split(2, dim=1), [(2, 4, 5)], {(0, 0, 0), (0, 2, 2)}),
    ("unbind", lambda x: x.unbind(1), [(2, 3, 5)], {(0, 0, 0), (0, 2, 1)}),
    ("squeeze", lambda x: x.squeeze(-1), [(2, 5, 1)], {(0, 0, 0), (0, 1, 1)}),
    ("squeeze_all", lambda x: x.squeeze(), [(2, 1, 5, 1)], {(0, 0, 0), (0, 2, 1)}),
    ("unsqueeze", lambda x: x.unsqueeze(1), [(2, 5)], {(0, 0, 0), (0, 1, 2)}),
    ("flatten_ones", lambda x: x.flatten(1), [(2, 5, 1, 1)], {(0, 0, 0), (0, 1, 1)}),
    ("expand", lambda x: x.expand(4, -1), [(1, 5)], {(0, 1, 1)}),
    ("repeat", lambda x: x.repeat(3, 1), [(2, 5)], {(0, 1, 1)}),
    ("cat", lambda x, y: torch.cat([x, y], 1), [(2, 3, 5), (2, 4, 5)], {(0, 0, 0), (1, 0, 0), (0, 2, 2), (1, 2, 2)}),
    ("stack", lambda x, y: torch.stack([x, y], 1), [(2, 5), (2, 5)], {(0, 0, 0), (1, 0, 0), (0, 1, 2), (1, 1, 2)}),
    ("index", lambda x: x[:, torch.zeros(4, dtype=torch.long, device="meta")], [(2, 3, 5)], {(0, 0, 0), (0, 2, 2)}),
    ("index_select", lambda x: x.index_select(1, torch.zeros(4, dtype=torch.long, device="meta")), [(2, 3, 5)],
     {(0, 0, 0), (0, 2, 2)}),
    ("mean", lambda x: x.mean(1), [(2, 3, 5)], {(0, 0, 0), (0, 2, 1)}),
    ("mean_keep", lambda x: x.mean((1,), keepdim=True), [(2, 3, 5)], {(0, 0, 0), (0, 2, 2)}),
    ("sum", lambda x: x.sum((0, 1)), [(2, 3, 5)], {(0, 2, 0)}),
    ("amax", lambda x: x.amax(-2), [(2, 3, 5)], {(0, 0, 0), (0, 2, 1)}),
    ("max_dim", lambda x: x.max(1), [(2, 3, 5)], {(0, 0, 0), (0, 2, 1)}),
    ("logsumexp", lambda x: x.logsumexp(1), [(2, 3, 5)], {(0, 0, 0), (0, 2, 1)}),
    ("norm", lambda x: x.norm(dim=1), [(2, 3, 5)], {(0, 0, 0), (0, 2, 1)}),
    ("normalize", functional.normalize, [(2, 5)], {(0, 0, 0), (0, 1, 1)}),
    ("softmax", lambda x: x.softmax(-1), [(2, 5)], {(0, 0, 0), (0, 1, 1)}),
    ("layer_norm", lambda x, w: functional.layer_norm(x, (5,), w), [(2, 5), (5,)], {(0, 0, 0), (0, 1, 1), (1, 0, 1)}),
    ("batch_norm", functional.batch_norm, [(2, 5, 4), (5,), (5,), (5,)],
     {(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 1), (2, 0, 1), (3, 0, 1)}),
    ("group_norm", lambda x, w: functional.group_norm(x, 1, w), [(2, 5, 4), (5,)],
     {(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 1)}),
    ("adaptive_avg_pool2d", lambda x: functional.adaptive_avg_pool2d(x, 1), [(2, 5, 4, 4)], {(0, 0, 0), (0, 1, 1)}),
    ("max_pool2d", lambda x: functional.max_pool2d(x, 2), [(2, 5, 4, 6)], {(0, 0, 0), (0, 1, 1)}),
    ("interpolate", lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"), [(2, 5, 4, 6)],
     {(0, 0, 0), (0, 1, 1)}),
    ("attention", functional.scaled_dot_product_attention, [(2, 3, 7, 8), (2, 3, 9, 8), (2, 3, 9, 6)],
     {(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 0), (1, 1, 1), (2, 0, 0), (2, 1, 1), (2, 3, 3)}),
    ("attention_fused", torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
     [(2, 3, 7, 8), (2, 3, 9, 8), (2, 3, 9, 8)],
     {(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 0), (1, 1, 1), (2, 0, 0), (2, 1, 1), (2, 3, 3)}),
    ("cdist", torch.cdist, [(2, 3), (5, 3)], {(0, 0, 0), (1, 0, 1)}),
    ("roll", lambda x: x.roll(1, 1), [(2, 5)], {(0, 0, 0), (0, 1, 1)}),
    ("written_slice", lambda x, y: x[:, 1].copy_(y) is None or x.relu(), [(2, 3, 5), (2, 5)],
     {(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 0), (1, 1, 2)}),
]  # fmt: skip


@pytest.mark.parametrize(("function", "shapes", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_an_operation_has_exactly_the_expected_links(
    function: Callable[..., Any], shapes: list[Shape], expected: set[tuple[int, int, int]]
) -> None:
    assert links_through(recorded(function, shapes)) == expected


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (torch.mm, [(2, 3), (3, 5)]),
        (torch.bmm, [(4, 2, 3), (4, 3, 5)]),
        (torch.cdist, [(2, 3), (5, 3)]),
        (functional.linear, [(2, 4, 3), (5, 3)]),
        (functional.conv2d, [(2, 3, 8, 8), (5, 3, 1, 1)]),
    ],
)  # fmt: skip
def test_products_state_the_dimensions_they_sum_over(function: Callable[..., Any], shapes: list[Shape]) -> None:
    (node,) = [node for node in recorded(function, shapes).nodes if relation(node).contracted]
    ((a, a_dim), (b, b_dim)) = relation(node).contracted[0]
    assert node.inputs[a].shape[a_dim] == node.inputs[b].shape[b_dim] == 3


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """Draw two shapes with the same number of elements, grouped differently from one list of small factors."""
    factors = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))

    def grouping() -> Shape:
        shape: list[int] = []
        current = 1
        for factor in factors:
            current *= factor
            if draw(st.booleans()):
                shape.append(current)
                current = 1
        shape.append(current)
        return tuple(shape)

    return grouping(), grouping()


def position(flat: int, shape: Shape) -> list[int]:
    indices: list[int] = []
    for size in reversed(shape):
        indices.insert(0, flat % size)
        flat //= size
    return indices


@given(reshapes())
def test_common_factors_of_a_view_run_over_the_same_index(shapes: tuple[Shape, Shape]) -> None:
    old, new = shapes
    for flat in range(math.prod(old)):
        before, after = position(flat, old), position(flat, new)
        for in_dim, in_inner, out_dim, out_inner, size in view_factors(old, new):
            assert before[in_dim] // in_inner % size == after[out_dim] // out_inner % size


@given(reshapes())
def test_common_factors_cover_all_elements_of_a_flattened_or_equal_shape(shapes: tuple[Shape, Shape]) -> None:
    old, _ = shapes
    for new in ((math.prod(old),), old):
        covered = math.prod(size for *_, size in view_factors(old, new))
        assert covered == math.prod(old)
        assert math.prod(size for *_, size in view_factors(new, old)) == math.prod(old)


def test_dimensions_without_a_common_boundary_have_no_common_factor() -> None:
    assert [factor[-1] for factor in view_factors((2, 4, 9), (2, 6, 6))] == [2]
    assert [factor[-1] for factor in view_factors((2, 4, 6), (2, 6, 4))] == [2]


def test_every_rule_names_an_operation_of_torch() -> None:
    known = {*dir(torch.ops.aten), *torch._C._dispatch_get_all_op_names(), ALIASED_WRITE}
    known |= {name.partition("::")[2].partition(".")[0] for name in known}
    since_2_4 = {"_fused_rms_norm", "_batch_norm_with_update", "_batch_norm_no_update",
                 "_scaled_dot_product_fused_attention_overrideable"}  # fmt: skip
    assert {rule for rule in RULES if rule not in known} <= since_2_4


def test_dimensions_of_an_unknown_operation_are_matched_by_size() -> None:
    assert links_through(recorded(lambda x: torch.linalg.qr(x)[0], [(3, 7, 5)])) == {(0, 0, 0), (0, 1, 1), (0, 2, 2)}


def test_calls_with_different_arguments_have_separate_cached_relations() -> None:
    one, other, again = (
        relation(recorded(lambda x, dims=dims: x.transpose(*dims), [(3, 3, 3)]).nodes[-1])
        for dims in ((0, 1), (1, 2), (0, 1))
    )
    assert one.links != other.links
    assert again is one, "the relation must be cached"
    plus_row = relation(recorded(lambda x, y: x + y, [(3, 3), (3,)]).nodes[-1])
    plus_all = relation(recorded(lambda x, y: x + y, [(3, 3), (3, 3)]).nodes[-1])
    assert len(plus_row.links) < len(plus_all.links)
