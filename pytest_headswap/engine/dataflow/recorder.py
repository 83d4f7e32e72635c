"""Record the data flow of a forward pass below autograd, so that frozen and `no_grad` models are recorded alike."""

from __future__ import annotations

import itertools
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.meta_cache import Execute
from pytest_headswap.engine.abstract.released import check_released
from pytest_headswap.engine.abstract.run import AbstractRun, abstract_run, meta_run_with_device_checks
from pytest_headswap.engine.abstract.stand_ins import TENSOR_KINDS, StandIns
from pytest_headswap.engine.dataflow.choices import find_choices
from pytest_headswap.engine.dataflow.graph import (
    ATTRIBUTE,
    BUFFER,
    CONSTANT,
    INPUT,
    PARAMETER,
    Graph,
    IdentityCall,
    Node,
    Value,
)
from pytest_headswap.engine.dataflow.memory_overlap import are_disjoint
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import (
    TorchDispatchMode,
    is_pointwise,
    mutated_tensors,
    op_name,
    selects_by_value,
    storage_key,
)
from pytest_headswap.engine.pytorch.modules import buffers_of, parameters_of
from pytest_headswap.engine.pytorch.outputs import flatten_outputs

_PLAIN_TYPES = frozenset((int, bool, float, str, type(None)))
_TENSOR_FREE_TYPES = _PLAIN_TYPES | {tuple, list, dict, set, OrderedDict}  # types that are not tensors

ALIASED_WRITE = "headswap::aliased_write"
"""Name of the node for a write to another view of the same storage (`out[:, 0] = ...`)."""


def record(
    model: nn.Module, inputs: Inputs, *, training: bool = False, tensor_kinds: Sequence[str] = TENSOR_KINDS
) -> Graph:
    """Run the model abstractly and return its data flow.

    Raises:
        HeadSwapError: `forward_failed` or `leaked_tensor`.
    """
    session = RecordingSession(inputs, training)
    with torch.no_grad():
        run = abstract_run(model, inputs, training=training, tensor_kinds=tensor_kinds, recorder=session.context)
    graph = session.build_graph(run)
    references = session.tensor_references()
    del session, run
    check_released(references, type(model).__name__)
    return graph


def record_with_device_checks(model: nn.Module, inputs: Inputs, *, training: bool = False) -> tuple[AbstractRun, Graph]:
    """Run the model on the meta device with device checks, in the current grad mode, and record its data flow.

    Exceptions of the model are raised unchanged.
    """
    session = RecordingSession(inputs, training)
    run = meta_run_with_device_checks(model, inputs, training=training, recorder=session.context)
    return run, session.build_graph(run)


class RecordingSession:
    """Record each attempt to run a model with a new recorder, because a failed attempt leaves partial records."""

    def __init__(self, inputs: Inputs, training: bool) -> None:
        self._inputs = inputs
        self._training = training
        self.recorder: _Recorder

    @contextmanager
    def context(self, stand_ins: StandIns, named: Sequence[tuple[str, nn.Module]], execute: Execute) -> Iterator[None]:
        """Return a context in which the model runs and is recorded."""
        self.recorder = recorder = _Recorder(Graph(self._training), execute)
        recorder.name_sources(named)
        for index, tensor in enumerate(self._inputs.tensors()):
            recorder.add_source(stand_ins.stand_in_for(tensor), INPUT, f"input[{index}]")
        _track_leaf_modules(named, recorder)
        with recorder:
            yield

    def tensor_references(self) -> list[weakref.ref[torch.Tensor]]:
        """Return weak references to the tensors that the last run computed."""
        return self.recorder.tensor_references()

    def build_graph(self, run: AbstractRun) -> Graph:
        """Return the data flow of the last run, the one that succeeded."""
        recorder = self.recorder
        graph = recorder.graph
        graph.tensor_kind = run.tensor_kind
        graph.mutated = recorder.mutated_sources()
        for label, tensor in flatten_outputs(run.outputs):
            value = recorder.value_of(tensor)
            if tensor.is_floating_point():
                graph.outputs[label] = value
            else:
                graph.other_outputs.append(label)
            graph.choices += find_choices(label, value, not tensor.is_floating_point())
        return graph


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Turn each operation into a Node. All tensors are kept alive, so that object ids stay unique."""

    def __init__(self, graph: Graph, execute: Execute) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.graph = graph
        self.module = ""
        self._execute = execute
        self._values: dict[int, Value] = {}
        self._tensors: list[torch.Tensor] = []
        self._sources: list[tuple[torch.Tensor, Value]] = []
        self._by_storage: defaultdict[int | None, list[torch.Tensor]] = defaultdict(list)
        self._num_indexed = 0  # length of the indexed part of _tensors; built lazily, as most models need no index

    def name_sources(self, named: Sequence[tuple[str, nn.Module]]) -> None:
        """Register the model's own tensors. `named` are its modules under all their names."""
        for name, parameter in parameters_of(named):
            self.add_source(parameter, PARAMETER, name)
        for name, buffer in buffers_of(named):
            self.add_source(buffer, BUFFER, name)
        visited: set[int] = set()
        for path, module in named:
            if id(module) in visited:
                continue
            visited.add(id(module))
            for key, value in module.__dict__.items():
                if type(value) not in _TENSOR_FREE_TYPES and isinstance(value, torch.Tensor):
                    self.add_source(value, ATTRIBUTE, f"{path}.{key}" if path else key)

    def add_source(self, tensor: torch.Tensor, origin: str, name: str) -> None:
        """Register a tensor that no recorded operation computes."""
        value = self._values.get(id(tensor))
        if value is None:
            value = self._new(tensor, Value(tuple(tensor.shape), origin=origin))
            value.names = (name,)
            self._sources.append((tensor, value))
        else:
            value.names = (*value.names, name)

    def mutated_sources(self) -> tuple[str, ...]:
        """Return the names of the model's own tensors that forward wrote to, directly or through a view."""
        return tuple(
            value.name
            for tensor, value in self._sources
            if value.origin != INPUT and (self._values[id(tensor)] is not value)
        )

    def value_of(self, tensor: torch.Tensor) -> Value:
        """Return the current value of a tensor. An unknown tensor becomes a constant."""
        value = self._values.get(id(tensor))
        if value is None:
            value = self._new(tensor, Value(tuple(tensor.shape), origin=CONSTANT))
        return value

    def tensor_references(self) -> list[weakref.ref[torch.Tensor]]:
        """Return weak references to all tensors that an operation returned."""
        return [weakref.ref(tensor) for tensor in self._tensors if self._values[id(tensor)].node is not None]

    def _new(self, tensor: torch.Tensor, value: Value) -> Value:
        self._values[id(tensor)] = value
        self._tensors.append(tensor)
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs: list[Value] = []
        values = self._as_values(args, inputs)
        named = {key: self._as_values((value,), inputs)[0] for key, value in kwargs.items()} if kwargs else kwargs
        node = Node(op_name(func), values, named, inputs, is_pointwise(func), self.module)
        result = self._execute(func, args, kwargs)
        self.graph.nodes.append(node)
        if selects_by_value(func, args):
            self.graph.selections.append(node)
        from_input = False
        for value in inputs:
            value.users.append(node)
            from_input = from_input or value.from_input
        written = mutated_tensors(func, args, kwargs)
        if type(result) is torch.Tensor:
            self._output(node, result, from_input)
        else:
            for tensor in result if isinstance(result, (list, tuple)) else (result,):
                if isinstance(tensor, torch.Tensor):
                    self._output(node, tensor, from_input)
        for tensor in written:
            value = self._values[id(tensor)]
            if value.node is not node:  # the operation does not return the tensor it wrote to
                value = self._output(node, tensor, from_input)
            self._propagate_aliased_write(tensor, value)
        return result

    def _as_values(self, arguments: Sequence[Any], inputs: list[Value]) -> tuple[Any, ...]:
        """Return the arguments with each tensor replaced by its value, and append the values to `inputs`."""
        values: list[Any] = []
        for argument in arguments:
            if type(argument) in _PLAIN_TYPES:
                values.append(argument)
            elif isinstance(argument, torch.Tensor):
                value = self._values.get(id(argument)) or self.value_of(argument)
                inputs.append(value)
                values.append(value)
            elif isinstance(argument, (list, tuple)):
                values.append(self._as_values(argument, inputs))
            else:
                values.append(argument)
        return tuple(values)

    def _output(self, node: Node, tensor: torch.Tensor, from_input: bool) -> Value:
        value = Value(tuple(tensor.shape), node, len(node.outputs))
        value.from_input = from_input
        node.outputs.append(value)
        if id(tensor) in self._values:
            self._values[id(tensor)] = value
            return value
        return self._new(tensor, value)

    def _propagate_aliased_write(self, written: torch.Tensor, value: Value) -> None:
        """Make every other tensor that overlaps the written one depend on what was written."""
        for tensor in self._tensors[self._num_indexed :]:
            self._by_storage[storage_key(tensor)].append(tensor)
        self._num_indexed = len(self._tensors)
        key = storage_key(written)
        for tensor in self._by_storage[key] if key is not None else ():
            if tensor is not written and tensor.shape != () and not are_disjoint(tensor, written):
                before = self._values[id(tensor)]
                node = Node(ALIASED_WRITE, (before, value), {}, [before, value], pointwise=False, module=self.module)
                self.graph.nodes.append(node)
                before.users.append(node)
                value.users.append(node)
                self._output(node, tensor, before.from_input or value.from_input)


def _track_leaf_modules(named: Sequence[tuple[str, nn.Module]], recorder: _Recorder) -> None:
    """Tell the recorder which leaf module is running, and record each `nn.Identity`.

    This gives each leaf module a `forward` of its own, until the abstract run ends and the model gets its attributes
    back. Hooks would do the same, but torch then takes a slower call path that costs a tenth of the run.
    """
    executed = itertools.count(1)
    tracked: set[int] = set()
    for path, module in named:
        if id(module) not in tracked and all(child is None for child in module._modules.values()):
            tracked.add(id(module))
            forward = _tracked_identity if type(module) is nn.Identity else _tracked_forward
            module.__dict__["forward"] = forward(path, module.forward, recorder, executed)


def _tracked_forward(
    path: str, forward: Callable[..., Any], recorder: _Recorder, executed: Iterator[int]
) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        recorder.module = path
        try:
            output = forward(*args, **kwargs)
        finally:
            recorder.module = ""
        next(executed)
        return output

    return wrapped


def _tracked_identity(
    path: str, forward: Callable[..., Any], recorder: _Recorder, executed: Iterator[int]
) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        count = next(executed)
        if isinstance(output, torch.Tensor):
            recorder.graph.identities.append(IdentityCall(path, recorder.value_of(output), count))
        return output

    return wrapped
