"""Views of one storage that share no element, and those that do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_headswap.engine.dataflow.memory_overlap import are_disjoint


def _elements(tensor: torch.Tensor) -> set[int]:
    elements = torch.arange(10_000).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    return set(elements.flatten().tolist())


VIEW = st.integers(1, 3).flatmap(
    lambda dims: st.tuples(
        st.lists(st.integers(1, 4), min_size=dims, max_size=dims),
        st.lists(st.sampled_from([0, 1, 2, 3, 4, 6, 8, 12, 24]), min_size=dims, max_size=dims),
        st.integers(0, 30),
    )
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(VIEW, VIEW, st.booleans())
def test_tensors_reported_as_disjoint_share_no_element(
    one: tuple[list[int], list[int], int], other: tuple[list[int], list[int], int], same_strides: bool
) -> None:
    strides = one[1] if same_strides and len(other[0]) == len(one[1]) else other[1]
    base = torch.empty(10_000, device="meta")
    first, second = base.as_strided(*one), base.as_strided(other[0], strides, other[2])
    if are_disjoint(first, second):
        assert _elements(first).isdisjoint(_elements(second))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_chunks_of_a_tensor_are_disjoint(dim: int) -> None:
    parts = torch.empty(8, 12, 16, device="meta").chunk(4, dim)
    for one in parts:
        assert [are_disjoint(one, other) for other in parts] == [one is not other for other in parts]


def test_overlapping_slices_are_not_disjoint() -> None:
    whole = torch.empty(4, 6, device="meta")
    assert not are_disjoint(whole[:, :3], whole)
    assert not are_disjoint(whole[:, :3], whole[:, 2:4])
    assert not are_disjoint(whole[:, :3], whole.T)
    assert are_disjoint(whole[0], whole[2])


@pytest.mark.parametrize(
    ("one", "other", "strides"),
    [((6, (2, 2)), (8, (1, 4)), (2, 8)), ((4, (1, 3)), (6, (3, 2)), (1, 4))],
    ids=["the first is long", "the second is long"],
)
def test_views_that_meet_in_the_next_row_are_not_disjoint(
    one: tuple[int, tuple[int, int]], other: tuple[int, tuple[int, int]], strides: tuple[int, int]
) -> None:
    base = torch.empty(100, device="meta")
    first, second = (base.as_strided(shape, strides, offset) for offset, shape in (one, other))
    assert not _elements(first).isdisjoint(_elements(second))
    assert not are_disjoint(first, second)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_sparse_tensor_is_not_known_to_be_disjoint(layout: torch.layout) -> None:
    strided = torch.eye(3)
    sparse = strided.to_sparse(layout=layout)
    assert not are_disjoint(sparse, strided)
    assert not are_disjoint(strided, sparse)
