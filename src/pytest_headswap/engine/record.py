"""Record the data flow of a forward pass, below autograd, so that frozen and `no_grad` models look the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine._torch import (
    TorchDispatchMode,
    add_forward_hooks,
    is_pointwise,
    mutated_tensors,
    op_name,
    storage_key,
)
from pytest_headswap.engine.abstract import WAYS, AbstractRun, StandIns, abstract_run, watched_run
from pytest_headswap.engine.graph import (
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
from pytest_headswap.engine.inputs import Inputs, as_inputs
from pytest_headswap.engine.meta import run_on_meta
from pytest_headswap.engine.outputs import flatten_outputs
from pytest_headswap.engine.walk import named_buffers, named_modules, named_parameters

ALIASED_WRITE = "headswap::aliased_write"
"""Stands for "this tensor was changed through another view of its storage" (`out[:, 0] = ...`)."""


def record(model: nn.Module, example_inputs: Any, *, training: bool = False, ways: Sequence[str] = WAYS) -> Graph:
    """Run the model abstractly and return its data flow.

    Raises:
        HeadSwapError: `forward_failed` or `bad_inputs`.
    """
    recording = _Recording(model, as_inputs(example_inputs), training, run_on_meta)

    @contextmanager
    def around(stand_ins: StandIns) -> Iterator[None]:
        with torch.no_grad(), recording.around(stand_ins):
            yield

    run = abstract_run(model, recording.inputs, training=training, ways=ways, around=around, recorded=True)
    return recording.graph_of(run)


def record_watched(model: nn.Module, example_inputs: Any, *, training: bool = False) -> tuple[AbstractRun, Graph]:
    """A `watched_run` in the present grad mode, and its data flow; raises what the model raises."""
    recording = _Recording(model, as_inputs(example_inputs), training, _asked_of_the_watch)
    run = watched_run(model, recording.inputs, training=training, around=recording.around)
    return run, recording.graph_of(run)


def _asked_of_the_watch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


class _Recording:
    """A recorder for each attempt to run a model, since one that failed has seen things."""

    def __init__(self, model: nn.Module, inputs: Inputs, training: bool, execute: Execute) -> None:
        self.inputs = inputs
        self._model = model
        self._training = training
        self._execute = execute
        self._recorder: _Recorder

    @contextmanager
    def around(self, stand_ins: StandIns) -> Iterator[None]:
        """The block in which the model runs."""
        self._recorder = recorder = _Recorder(Graph(self._training), self._execute)
        recorder.name_sources(self._model)
        for index, tensor in enumerate(self.inputs.tensors()):
            recorder.add_source(stand_ins.of(tensor), INPUT, f"input[{index}]")
        _ModuleWatcher(self._model, recorder).watch()
        with recorder:
            yield

    def graph_of(self, run: AbstractRun) -> Graph:
        """The data flow of the run that succeeded, which is the last."""
        recorder = self._recorder
        graph = recorder.graph
        graph.way = run.way
        graph.written = recorder.written_sources()
        for label, tensor in flatten_outputs(run.outputs):
            if tensor.is_floating_point():
                graph.outputs[label] = recorder.value_of(tensor)
        return graph


Execute = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""Runs an operation on its arguments."""


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Turns each operation into a Node. Keeps every tensor alive, so that object ids stay unique."""

    def __init__(self, graph: Graph, execute: Execute) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.graph = graph
        self.module = ""
        self._execute = execute
        self._values: dict[int, Value] = {}
        self._kept: list[torch.Tensor] = []
        self._sources: list[tuple[torch.Tensor, Value]] = []
        self._by_storage: defaultdict[int | None, list[torch.Tensor]] = defaultdict(list)

    def name_sources(self, model: nn.Module) -> None:
        """Tell the recorder what the model's own tensors are called."""
        for name, parameter in named_parameters(model):
            self.add_source(parameter, PARAMETER, name)
        for name, buffer in named_buffers(model):
            self.add_source(buffer, BUFFER, name)
        for path, module in named_modules(model):
            for key, value in module.__dict__.items():
                if isinstance(value, torch.Tensor):
                    self.add_source(value, ATTRIBUTE, f"{path}.{key}" if path else key)

    def add_source(self, tensor: torch.Tensor, origin: str, name: str) -> None:
        """Register a tensor that no recorded operation makes."""
        value = self._values.get(id(tensor))
        if value is None:
            value = self._new(tensor, Value(tuple(tensor.shape), origin=origin))
            self._sources.append((tensor, value))
        value.names = (*value.names, name)

    def written_sources(self) -> tuple[str, ...]:
        """Names of the model's own tensors that forward has written to, through whatever view of them."""
        return tuple(
            value.name
            for tensor, value in self._sources
            if value.origin != INPUT and (self._values[id(tensor)] is not value)
        )

    def value_of(self, tensor: torch.Tensor) -> Value:
        """The present value of a tensor; one never seen before is a constant."""
        value = self._values.get(id(tensor))
        if value is None:
            value = self._new(tensor, Value(tuple(tensor.shape), origin=CONSTANT))
        return value

    def _new(self, tensor: torch.Tensor, value: Value) -> Value:
        self._values[id(tensor)] = value
        self._kept.append(tensor)
        self._by_storage[storage_key(tensor)].append(tensor)
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs: list[Value] = []
        node = Node(
            op_name(func),
            tuple(self._as_values(value, inputs) for value in args),
            {key: self._as_values(value, inputs) for key, value in kwargs.items()},
            inputs,
            is_pointwise(func),
            self.module,
        )
        result = self._execute(func, args, kwargs)
        self.graph.nodes.append(node)
        from_input = any(value.from_input for value in inputs)
        for value in inputs:
            value.consumers.append(node)
        written = mutated_tensors(func, args, kwargs)
        for tensor in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self._output(node, tensor, from_input)
        for tensor in written:
            value = self._values[id(tensor)]
            if value.node is not node:  # an operation that returns something else than what it wrote to
                value = self._output(node, tensor, from_input)
            self._changed_through(tensor, value)
        return result

    def _as_values(self, argument: Any, inputs: list[Value]) -> Any:
        if isinstance(argument, torch.Tensor):
            value = self.value_of(argument)
            inputs.append(value)
            return value
        if isinstance(argument, (list, tuple)):
            return tuple(self._as_values(item, inputs) for item in argument)
        return argument

    def _output(self, node: Node, tensor: torch.Tensor, from_input: bool) -> Value:
        value = Value(tuple(tensor.shape), node, len(node.outputs))
        value.from_input = from_input
        node.outputs.append(value)
        if id(tensor) in self._values:
            self._values[id(tensor)] = value
            return value
        return self._new(tensor, value)

    def _changed_through(self, written: torch.Tensor, value: Value) -> None:
        """Every other tensor of the written storage now depends on what was written."""
        key = storage_key(written)
        for tensor in self._by_storage[key] if key is not None else ():
            if tensor is not written and tensor.shape != ():
                before = self._values[id(tensor)]
                node = Node(ALIASED_WRITE, (before, value), {}, [before, value], pointwise=False, module=self.module)
                self.graph.nodes.append(node)
                before.consumers.append(node)
                value.consumers.append(node)
                self._output(node, tensor, before.from_input or value.from_input)


class _ModuleWatcher:
    """Tells the recorder which module without children is running, and notes each `nn.Identity`."""

    def __init__(self, model: nn.Module, recorder: _Recorder) -> None:
        self._recorder = recorder
        self._leaves = [
            (path, module) for path, module in named_modules(model) if next(module.children(), None) is None
        ]
        self._executed = 0

    def watch(self) -> None:
        """From now on, until the model gets its own hooks back, which ends an abstract run."""
        for path, module in self._leaves:
            before, after = self._hooks(path, type(module) is nn.Identity)
            add_forward_hooks(module, before, after)

    def _hooks(self, path: str, is_identity: bool) -> tuple[Any, Any]:
        recorder = self._recorder

        def before(_module: nn.Module, _args: Any) -> None:
            recorder.module = path

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            recorder.module = ""
            self._executed += 1
            if is_identity and isinstance(output, torch.Tensor):
                call = IdentityCall(path, recorder.value_of(output), self._executed)
                recorder.graph.identities.append(call)

        return before, after
