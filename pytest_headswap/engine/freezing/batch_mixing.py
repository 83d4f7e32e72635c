"""Find operations that make the features of a sample depend on the other samples of its batch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple

from pytest_headswap.engine.dataflow.dim_flow import DimFlow
from pytest_headswap.engine.dataflow.graph import INPUT, Graph, Node, Value
from pytest_headswap.engine.freezing.row_rules import certain, own_rows, unsure
from pytest_headswap.engine.freezing.sample_rows import RowFlow

_MAX_ROWS = 4096  # a longer dimension counts samples of sound, points or tokens, but no samples of a batch


class Mixing(NamedTuple):
    """The operation that combines or exchanges samples.

    `is_certain`: not if an index that depends on the samples decides which of them meet, as in a mixture of experts,
    or if the rows may be something else than samples.
    """

    node: Node
    is_certain: bool


def find_mixing(graph: Graph, features: Collection[Value]) -> Mixing | None:
    """Return an operation that makes the features of a sample depend on other samples, or None.

    Samples are counted by the first dimension of an input, or by the second one if its rows stay separate, as in
    models with the sequence first. They are not taken for samples if the model or another input decides how they meet,
    as for the nodes of a graph.
    """
    flow = DimFlow(graph)
    found: dict[Value, Mixing] = {}
    arrangers: set[Value] = set()
    some_separate = False
    for source in dict.fromkeys(value for node in graph.nodes for value in node.inputs if value.origin == INPUT):
        first: Mixing | None = None
        for dim, size in enumerate(source.shape[:2]):
            if not 1 < size <= _MAX_ROWS:
                continue
            rows = RowFlow(graph, flow, source, dim)
            arrangers |= rows.arrangers
            if rows.is_arranged or not _reaches(rows, (*graph.outputs.values(), *features), size):
                continue
            mixing, is_used = _mixing_in(rows, features, size)
            if mixing is None and is_used:
                some_separate, first = True, None
                break
            if dim == 0:
                first = mixing
        if first is not None:
            found[source] = first
    candidates = [mixing for source, mixing in found.items() if source not in arrangers]
    best = max(candidates, key=lambda mixing: mixing.is_certain, default=None)
    return best and Mixing(best.node, best.is_certain and not some_separate)


def _reaches(rows: RowFlow, values: Iterable[Value], size: int) -> bool:
    """Return whether one of the first two dimensions of a value may run over the rows."""
    return any(
        (value in rows.whole and value.shape[:1] == (size,)) or any(axis.dim < 2 for axis in rows.axes.get(value, ()))
        for value in values
    )


def _mixing_in(flow: RowFlow, features: Iterable[Value], size: int) -> tuple[Mixing | None, bool]:
    """Return how features depend on other rows than their own, and whether any feature depends on a row at all."""
    found: Mixing | None = None
    is_used = False
    for value in features:
        whole, axes = flow.whole.get(value, 0), flow.axes.get(value, {})
        is_used |= bool(whole or axes)
        others = whole
        if not axes:
            others = 0 if certain(whole).bit_count() == 1 else whole
        for axis, rows in axes.items():
            elsewhere = [reduce(or_, rows) for other, rows in axes.items() if other.dim != axis.dim]
            rest = whole | unsure(reduce(or_, elsewhere, 0))
            others = min((_beyond(rows, rest, own) for own in _own(rows, size)), key=certain)
            if others:
                break
        if others and (found is None or certain(others)):
            found = Mixing(flow.origin[value], bool(certain(others)))
            if found.is_certain:
                break
    return found, is_used


def _own(rows: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Return the rows that each position may depend on: its own one, also if each row is repeated.

    A shorter dimension is a part of the batch: different rows, or those from the first one that its first position
    depends on. Behind the rows of a longer one, a position may depend on any one row.
    """
    own, length = own_rows(size), len(rows)
    count, rest = divmod(length, size)
    if count == 0:
        firsts = tuple(map(_first, rows))
        if len(set(firsts)) == length:
            return [firsts]
        start = min(_first(rows[0]).bit_length() - 1, size - length) if rows[0] else 0
        return [own[start : start + length]]
    if rest:
        return [own + tuple(map(_first, rows[size:]))]
    return [own * count, tuple(row for row in own for _ in range(count))]


def _first(rows: int) -> int:
    """Return the first one of some rows, one that is certain if there is any."""
    rows = certain(rows) or rows
    return rows & -rows


def _beyond(rows: Iterable[int], rest: int, own: Iterable[int]) -> int:
    """Return the rows that positions depend on beyond their own ones."""
    return reduce(or_, ((row | rest) & ~(one | unsure(one)) for row, one in zip(rows, own, strict=True)), 0)


def rows_are_samples(graph: Graph) -> bool:
    """Return whether the first dimension of the inputs counts samples, as far as the data flow shows.

    It does not if the model or another input decides which rows meet, as edges do with nodes of a graph. Nor does it
    if its rows meet and those of the second dimension stay separate, as in models with the sequence first.
    """
    flow, outputs = DimFlow(graph), list(graph.outputs.values())
    for source in graph.inputs:
        size, *others = source.shape or (0,)
        if not 1 < size <= _MAX_ROWS:
            continue
        rows = RowFlow(graph, flow, source, 0)
        if rows.is_arranged:
            return False
        if others and 1 < others[0] <= _MAX_ROWS and _mixing_in(rows, outputs, size)[0]:
            second = RowFlow(graph, flow, source, 1)
            mixing, is_used = _mixing_in(second, outputs, others[0])
            if is_used and not mixing and not second.is_arranged and _reaches(second, outputs, others[0]):
                return False
    return True
