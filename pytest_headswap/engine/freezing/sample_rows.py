"""Follow the rows of an input through a recorded graph: on which rows does each row of a result depend?"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import reduce
from operator import or_

from pytest_headswap.engine.dataflow.assembled import ALIASED_WRITE
from pytest_headswap.engine.dataflow.dim_flow import DimFlow
from pytest_headswap.engine.dataflow.dims.links import normalize_dim
from pytest_headswap.engine.dataflow.graph import Graph, Node, Value, ancestors
from pytest_headswap.engine.dataflow.trace import ClassAxis
from pytest_headswap.engine.freezing.constants import constant_value
from pytest_headswap.engine.freezing.row_rules import (
    ALONG,
    PICKING,
    SHAPES_ONLY,
    Indexing,
    Rows,
    indexing_of,
    inputs_of,
    known_positions,
    moved,
    named_dims,
    normalizes_single_entries,
    own_rows,
    pads_of,
    short_name,
    spans,
    unsure,
)


class RowFlow:
    """One dimension of an input, followed through all operations.

    Attributes:
        axes: the dimensions of each value that run over rows.
        whole: the rows that all entries of a value depend on.
        origin: the operation that first combined or exchanged rows, for each value that depends on such a result.
        is_arranged: whether the model or another input decides how rows meet. The rest is unknown then.
        arrangers: these other inputs.
    """

    def __init__(self, graph: Graph, flow: DimFlow, source: Value, dim: int) -> None:
        self.axes: dict[Value, dict[ClassAxis, Rows]] = {}
        self.whole: dict[Value, int] = {}
        self.origin: dict[Value, Node] = {}
        self.is_arranged = False
        self.arrangers: set[Value] = set()
        self._graph, self._flow, self._source = graph, flow, source
        self._start = own_rows(source.shape[dim])
        self.axes[source] = {ClassAxis(source, dim): self._start}
        for node in graph.nodes:
            if node.name not in SHAPES_ONLY and any(x in self.axes or x in self.whole for x in node.inputs):
                self._step(node)
                if self.is_arranged:
                    return

    def _step(self, node: Node) -> None:
        name = short_name(node)
        is_first_lost = name == "copy" or normalizes_single_entries(node)
        read = list(dict.fromkeys(node.inputs[1:] if is_first_lost else node.inputs))
        self._changed = False
        if node.name == ALIASED_WRITE and self._write_to_part(node, *node.inputs[:2]):
            read = []
        joined = self._join(node, name) if name in ("cat", "concat", "stack") else False
        indexing = indexing_of(node, name)
        for value in read:
            if not joined:
                whole = self.whole.get(value, 0)
                is_index = indexing is not None and value in indexing.indices  # which rows it picks decides
                self._add_whole(node.outputs, unsure(whole) if is_index else whole)
            for axis, rows in self.axes.get(value, {}).items():
                self._pass(node, name, axis, rows)
        earlier = next((self.origin[value] for value in node.inputs if value in self.origin), None)
        if earlier or self._changed:
            self.origin.update(dict.fromkeys(node.outputs, earlier or node))

    def _pass(self, node: Node, name: str, axis: ClassAxis, rows: Rows) -> None:
        """Follow one dimension of an operand into the results."""
        relation = self._flow.relation_of(node)
        links = list(self._flow.step_forward(axis, node, len(rows)))
        operands = [position for position, value in enumerate(node.inputs) if value is axis.value]
        is_plain = axis.inner == 1 and axis.value.shape[axis.dim] == len(rows)
        everything = reduce(or_, rows, 0)
        if name in ("cat", "concat") and is_plain and named_dims(node, 1) == {axis.dim}:
            return  # `_join` did this
        indexing = indexing_of(node, name)
        if indexing is not None and self._index(indexing, node, axis, rows):
            return
        if name in PICKING and axis.dim in named_dims(node, PICKING[name]) and is_plain:
            self._pick(node, name, axis, rows)
            return
        if name == "constant_pad_nd" and is_plain and (pads := pads_of(node, axis.dim)) != (0, 0):
            padded = (*(0,) * pads[0], *rows, *(0,) * pads[1])  # a negative number removes positions
            end = node.outputs[0].shape[axis.dim] - min(pads[0], 0)
            self._changed = True
            self._put(ClassAxis(node.outputs[0], axis.dim), padded[max(-pads[0], 0) : end])
            return
        if name in ALONG and axis.dim in named_dims(node, ALONG[name]):
            self._changed = True
            self._put_all(node, links, moved(node, name, rows, is_plain), everything)
            return
        if spans(node, name, axis):
            self._changed = True
            self._put_all(node, links, (everything,) * len(rows), everything)
            return
        if (apart := _kept_apart(node, name, axis, len(rows))) is not None:
            self._put(apart, rows)
            return
        if partners := list(self._flow.contracted_with(axis, node)):
            met = [self._meets(partner.value, rows) for partner in partners]
            self._changed = True
            self._add_whole(node.outputs, everything if all(met) and is_plain else unsure(everything))
        elif any((operand, axis.dim) in relation.reduced for operand in operands):
            self._changed = True
            self._add_whole(node.outputs, everything)
        elif node.outputs and node.outputs[0] not in {link.value for link in links}:
            self._changed = True
            self._add_whole(node.outputs[:1], everything if len(rows) == 1 else unsure(everything))
        for link in links:
            self._put(link, rows)

    def _meets(self, partner: Value, rows: Rows) -> bool:
        """Return whether rows are samples although a value decides which of them meet. Note if it arranges them."""
        if sources := self._arrange([partner]):
            return sources == {self._source}
        if any(source.names for node in ancestors([partner]) for source in node.inputs) or partner.names:
            self.is_arranged |= rows == self._start
        return True

    def _arrange(self, deciding: Iterable[Value]) -> set[Value]:
        """Return the inputs that values which decide how rows meet depend on. Note if these are other inputs."""
        sources = {source for value in deciding for source in inputs_of(value)}
        if sources and self._source not in sources:
            self.is_arranged = True
            self.arrangers |= sources
        return sources

    def _pick(self, node: Node, name: str, axis: ClassAxis, rows: Rows) -> None:
        self._changed = True
        start = 0
        for position, output in enumerate(node.outputs):
            if name == "select":
                self._add_whole([output], rows[node.argument(2, "index")])
            elif name == "unbind":
                self._add_whole([output], rows[position])
            elif name == "slice":
                part = slice(*(node.argument(k, key) for k, key in ((2, "start"), (3, "end"), (4, "step"))))
                self._put(ClassAxis(output, axis.dim), rows[part])
            else:
                end = start + output.shape[axis.dim]
                self._put(ClassAxis(output, axis.dim), rows[start:end])
                start = end

    def _join(self, node: Node, name: str) -> bool:
        """Concatenate or stack along a dimension of rows. Return whether this places what whole operands depend on."""
        out = node.outputs[0]
        dim = normalize_dim(node.argument(1, "dim", 0), len(out.shape))
        wholes = [self.whole.get(value, 0) for value in node.inputs]
        lengths = [1 if name == "stack" else value.shape[dim] if value.shape != (0,) else 0 for value in node.inputs]
        own = [None if name == "stack" else self._rows_at(value, dim) for value in node.inputs]
        if not any(own) and (dim > 1 or len(set(wholes)) == 1):
            return False
        parts = [
            tuple(row | whole for row in rows) if rows else (whole,) * length
            for rows, whole, length in zip(own, wholes, lengths, strict=True)
        ]
        self._put(ClassAxis(out, dim), tuple(itertools.chain(*parts)))
        return True

    def _rows_at(self, value: Value, dim: int) -> Rows | None:
        rows = self.axes.get(value, {}).get(ClassAxis(value, dim))
        return rows if rows and len(rows) == value.shape[dim] else None

    def _write_to_part(self, node: Node, before: Value, written: Value) -> bool:
        """Follow a write to some positions of a dimension (`out[1:] = ...`). Return whether it is one."""
        view = written.node.inputs[0].node if written.node is not None and written.node.inputs else None
        if view is None or short_name(view) not in ("select", "slice") or view.inputs[0].shape != before.shape:
            return False
        name, out = short_name(view), node.outputs[0]
        dim = normalize_dim(view.argument(1, "dim", 0), len(before.shape))
        size = before.shape[dim]
        part = slice(*(view.argument(k, key) for k, key in ((2, "start"), (3, "end"), (4, "step"))))
        positions = range(size)[part] if name == "slice" else [range(size)[view.argument(2, "index")]]
        new = (self._rows_at(written, dim) if name == "slice" else None) or (0,) * len(positions)
        if len(new) != len(positions):
            return False
        rows = list(self._rows_at(before, dim) or (0,) * size)
        for position, row in zip(positions, new, strict=True):
            rows[position] = row | self.whole.get(written, 0)
        if any(rows):
            self._put(ClassAxis(out, dim), tuple(rows))
        self._add_whole([out], self.whole.get(before, 0))
        for value in (before, written):
            for axis, other in self.axes.get(value, {}).items():
                own = axis.dim if value is before or name == "slice" or axis.dim < dim else axis.dim + 1
                if own != dim:
                    self._put(ClassAxis(out, own, axis.inner), other)
        return True

    def _index(self, call: Indexing, node: Node, axis: ClassAxis, rows: Rows) -> bool:
        """Follow rows that an index picks or places, and rows of the index. Return False if no index concerns them."""
        out, everything = node.outputs[0], reduce(or_, rows, 0)
        is_target, is_index = axis.value is node.inputs[0], axis.value in call.indices
        place = call.start + call.width - len(axis.value.shape) + axis.dim if is_index else axis.dim
        if is_index and not call.writes:
            self._put(ClassAxis(out, place, axis.inner), rows)
            return True
        if (is_target and (call.writes or axis.dim not in call.dims)) or not (
            is_index or is_target or call.start <= axis.dim < call.start + call.width
        ):
            return False
        if call.elementwise and axis.dim not in call.dims:
            return False
        self._changed = True
        is_known = axis.inner == 1 and axis.value.shape[axis.dim] == len(rows)
        for dim, index in zip(call.dims, call.indices, strict=True):
            positions = known_positions(constant_value(self._graph, index), node.inputs[0].shape[dim])
            long = next((k for k, size in enumerate(index.shape) if size > 1), 0)
            own = call.start + call.width - len(index.shape) + long
            if not is_known or positions is None or call.elementwise or (is_target and dim != axis.dim):
                continue
            if not call.writes:
                self._put(ClassAxis(out, own), tuple(rows[position] for position in positions))
                return True
            if own == place and len(positions) == len(rows):
                placed = [0] * out.shape[dim]
                for position, row in zip(positions, rows, strict=True):
                    placed[position] |= row
                self._put(ClassAxis(out, dim), tuple(placed))
                return True
        self._arrange(call.indices)
        is_certain = all(constant_value(self._graph, index) is not None for index in call.indices)
        self._add_whole([out], everything if is_certain else unsure(everything))
        return True

    def _put_all(self, node: Node, links: Iterable[ClassAxis], rows: Rows, everything: int) -> None:
        """Give all results along an axis these rows, or all rows to results that lose the dimension."""
        linked = {link.value for link in links}
        for output in node.outputs:
            if output not in linked:
                self._add_whole([output], everything)
        for link in links:
            self._put(link, rows)

    def _put(self, axis: ClassAxis, rows: Rows) -> None:
        if not any(rows):
            return
        own = self.axes.setdefault(axis.value, {})
        known = own.get(axis, (0,) * len(rows))
        if len(known) == len(rows):
            own[axis] = tuple(map(or_, known, rows))
        else:
            self._add_whole([axis.value], unsure(reduce(or_, rows)))

    def _add_whole(self, values: Iterable[Value], rows: int) -> None:
        for value in values if rows else ():
            self.whole[value] = self.whole.get(value, 0) | rows


def _kept_apart(node: Node, name: str, axis: ClassAxis, rows: int) -> ClassAxis | None:
    """Return where rows are after an operation on each of them: patches, or a convolution with groups for each row."""
    if name in ("im2col", "col2im"):
        return ClassAxis(node.outputs[0], 0, axis.inner) if axis.dim == 0 else None
    if not name.endswith("convolution") or axis.dim != (1 if axis.value is node.inputs[0] else 0):
        return None
    out, groups = node.outputs[0], int(node.argument(8, "groups", 1))
    is_outermost = axis.inner * rows == axis.value.shape[axis.dim]
    return ClassAxis(out, 1, out.shape[1] // rows) if groups > 1 and groups % rows == 0 and is_outermost else None
