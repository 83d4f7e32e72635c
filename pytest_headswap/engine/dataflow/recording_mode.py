"""Record every operation that torch dispatches, and know which value each tensor has."""

from __future__ import annotations

import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.meta_cache import Execute
from pytest_headswap.engine.dataflow.assembled import ALIASED_WRITE
from pytest_headswap.engine.dataflow.graph import ATTRIBUTE, BUFFER, CONSTANT, INPUT, PARAMETER, Graph, Node, Value
from pytest_headswap.engine.dataflow.memory_overlap import are_disjoint
from pytest_headswap.engine.pytorch.internals import (
    DispatchMode,
    is_pointwise,
    mutated_tensors,
    op_name,
    selects_by_value,
    storage_key,
)
from pytest_headswap.engine.pytorch.modules import buffers_of, parameters_of

_PLAIN_TYPES = frozenset((int, bool, float, str, type(None)))
_TENSOR_FREE_TYPES = _PLAIN_TYPES | {tuple, list, dict, set, OrderedDict}  # types that are not tensors


class Recorder(DispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Turn each operation into a Node. All tensors are kept alive, so that object ids stay unique."""

    def __init__(self, graph: Graph, execute: Execute) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.graph = graph
        self.module = ""
        self._execute = execute
        self._values: dict[int, Value] = {}
        self._tensors: list[torch.Tensor] = []
        self._computed: list[torch.Tensor] = []
        self._sources: list[tuple[torch.Tensor, Value]] = []
        self._by_storage: defaultdict[int | None, list[torch.Tensor]] = defaultdict(list)
        self._num_indexed = 0  # length of the indexed part of _tensors; built lazily, as most models need no index

    def name_sources(self, named: Sequence[tuple[str, nn.Module]], inputs: Sequence[tuple[str, torch.Tensor]]) -> None:
        """Register the model's own tensors and its inputs. `named` are its modules under all their names.

        A buffer or attribute that holds an input, such as an example kept for later, is an input.
        """
        for name, parameter in parameters_of(named):
            self.add_source(parameter, PARAMETER, name)
        for name, tensor in inputs:
            self.add_source(tensor, INPUT, f"input {name!r}")
            self.graph.inputs.append(self._values[id(tensor)])
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
        """Return the current value of a tensor. An unknown tensor with unknown data becomes a constant."""
        value = self._values.get(id(tensor))
        if value is None:
            value = self._value_of_same_data(tensor)
            if value is None:
                value = Value(tuple(tensor.shape), origin=CONSTANT)
                self.graph.constants[value] = weakref.ref(tensor)
            self._new(tensor, value)
        return value

    def _value_of_same_data(self, tensor: torch.Tensor) -> Value | None:
        """Return the value of a known tensor with the same elements, or None.

        `as_subclass` makes another object for the same memory, out of sight of torch's dispatcher. A subclass that
        wraps a tensor keeps it in an attribute.
        """
        key = storage_key(tensor)
        for known in reversed(self._overlapping(key)) if key is not None else ():
            if _geometry(known) == _geometry(tensor):
                return self._values[id(known)]
        return next((self._values[id(inner)] for inner in _wrapped(tensor) if id(inner) in self._values), None)

    def _overlapping(self, key: int) -> list[torch.Tensor]:
        """Return the known tensors in one storage."""
        for tensor in self._tensors[self._num_indexed :]:
            self._by_storage[storage_key(tensor)].append(tensor)
        self._num_indexed = len(self._tensors)
        return self._by_storage[key]

    def tensor_references(self) -> list[weakref.ref[torch.Tensor]]:
        """Return weak references to all tensors that operations made, not those that they only wrote to."""
        return [weakref.ref(tensor) for tensor in self._computed]

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
        inner = _wrapped(tensor)
        for part in inner:
            self._new(part, value)
        if id(tensor) in self._values:
            self._values[id(tensor)] = value
            return value
        self._computed += (tensor, *inner)
        return self._new(tensor, value)

    def _propagate_aliased_write(self, written: torch.Tensor, value: Value) -> None:
        """Make every other tensor that overlaps the written one depend on what was written."""
        key = storage_key(written)
        for tensor in self._overlapping(key) if key is not None else ():
            if tensor is not written and tensor.shape != () and not are_disjoint(tensor, written):
                before = self._values[id(tensor)]
                node = Node(ALIASED_WRITE, (before, value), {}, [before, value], pointwise=False, module=self.module)
                self.graph.nodes.append(node)
                before.users.append(node)
                value.users.append(node)
                self._output(node, tensor, before.from_input or value.from_input)


def _wrapped(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors of the same shape that an object of a tensor subclass holds."""
    if type(tensor) is torch.Tensor:
        return []
    return [x for x in vars(tensor).values() if isinstance(x, torch.Tensor) and x.shape == tensor.shape]


def _geometry(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
