"""Record the data flow of a frozen model, with everything that forward writes and draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.meta_cache import Execute
from pytest_headswap.engine.abstract.run import abstract_run
from pytest_headswap.engine.abstract.stand_ins import StandIns
from pytest_headswap.engine.dataflow.before_heads import HeadNames, before_heads, features_of, head_calls
from pytest_headswap.engine.dataflow.graph import ATTRIBUTE, INPUT, Graph, Node, Value, ancestors
from pytest_headswap.engine.dataflow.recorder import RecordingSession
from pytest_headswap.engine.freezing.held_state import HeldState
from pytest_headswap.engine.freezing.nondeterminism import is_nondeterministic
from pytest_headswap.engine.freezing.observe import PLAIN_ARGUMENTS
from pytest_headswap.engine.freezing.row_rules import SHAPES_ONLY
from pytest_headswap.engine.pytorch.inputs import Inputs


@dataclass(eq=False)
class WatchedGraph:
    """The data flow of a run, with what the data flow does not show.

    Attributes:
        graph: the data flow.
        nondeterministic: the operations that draw random numbers or use batch statistics.
        written: names of the tensors of the model that forward wrote to, or replaced by other values.
        constants: names of parameters and buffers that forward replaced by values that do not depend on the inputs.
        used_generators: names of the generators of Python and NumPy that the run used.
        held: constants of the graph, which has only weak references to them.
    """

    graph: Graph
    nondeterministic: list[Node] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    used_generators: list[str] = field(default_factory=list)
    held: list[Any] = field(default_factory=list)

    def features(self, heads: HeadNames) -> list[Value]:
        """Return the values that the heads read."""
        before = before_heads(self.graph, heads)
        within = ancestors(output for call in head_calls(self.graph, heads) for output in call.outputs)
        readers = within - before
        read = (value for node in self.graph.nodes if node in readers for value in node.inputs)
        return list(dict.fromkeys(value for value in read if value.node in before or value.origin == INPUT))

    def feature_operations(self, heads: HeadNames) -> set[Any]:
        """Return the operations before each head in a form that can be compared."""
        calls = head_calls(self.graph, heads)
        found = set()
        for call in calls:
            before = features_of([call], calls, heads)
            names = frozenset(name for value in call.inputs for name in value.names)
            found.add((names, tuple(_comparable(node) for node in self.graph.nodes if node in before)))
        return found


def watch(model: nn.Module, inputs: Inputs, *, training: bool) -> WatchedGraph:
    """Record the data flow of a run in one mode, with everything that forward writes.

    Raises:
        HeadSwapError: `forward_failed`.
    """
    session = RecordingSession(inputs, training)
    watched: list[WatchedGraph] = []

    @contextmanager
    def context(stand_ins: StandIns, named: Sequence[tuple[str, nn.Module]], execute: Execute) -> Iterator[None]:
        positions: list[int] = []

        def execute_and_note(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if is_nondeterministic(func, args, kwargs):
                positions.append(len(session.recorder.graph.nodes))
            return execute(func, args, kwargs)

        before = HeldState(named)
        try:
            with session.context(stand_ins, named, execute_and_note):
                for path, held in before.tensors.items():
                    if not held.is_registered and path != held.attribute:
                        session.recorder.add_source(held.tensor, ATTRIBUTE, path)
                yield
            graph = session.recorder.graph
            found = WatchedGraph(graph, [graph.nodes[position] for position in positions])
            found.held += [reference() for reference in graph.constants.values()]
            found.used_generators += before.used_generators()
            found.written += session.recorder.mutated_sources()
            _add_assigned(found, before, HeldState(named), session)
            watched.append(found)
        finally:
            before.restore_generators()

    with torch.no_grad():
        run = abstract_run(model, inputs, training=training, recorder=context)
    session.build_graph(run)
    return watched[-1]


def _add_assigned(found: WatchedGraph, before: HeldState, now: HeldState, session: RecordingSession) -> None:
    """Add the tensors that forward assigned, rather than wrote to."""
    nodes = found.graph.nodes
    read = {name.partition("[")[0] for node in nodes for value in node.inputs for name in value.names}
    for path, held in before.changed_tensors(now):
        known = before.tensors.get(path)
        own = known is not None and held.tensor is known.tensor
        value = session.recorder.value_of(held.tensor.data if own else held.tensor)
        if value.names and known is not None and path in value.names:
            continue  # the same values
        changes = _is_variable(value, path, found)
        if held.is_registered:
            if changes:
                found.written.append(path)
            elif known is not None:
                found.constants.append(path)
        elif changes and any(name == held.attribute or name.startswith(f"{held.attribute}.") for name in read):
            found.written.append(path)
    found.written = list(dict.fromkeys(found.written))


def _is_variable(value: Value, path: str, found: WatchedGraph) -> bool:
    """Return whether a value depends on the inputs, on chance, on what it replaces or on what forward writes."""
    if value.node is None:
        return value.from_input or bool(value.names)
    random_nodes = set(found.nondeterministic)
    stack, seen = [value.node], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in random_nodes:
            return True
        if node.name in SHAPES_ONLY:
            continue
        for source in node.inputs:
            if source.node is not None:
                stack.append(source.node)
            elif source.origin == INPUT or path in source.names or set(source.names) & set(found.written):
                return True
    return False


def _comparable(node: Node) -> Any:
    def plain(value: Any) -> Any:
        if isinstance(value, Value):
            return value.shape, value.names
        if isinstance(value, (list, tuple)):
            return tuple(plain(item) for item in value)
        return value if type(value) in PLAIN_ARGUMENTS else str(type(value))

    return node.name, plain(node.args), plain(tuple(node.kwargs.items()))
