"""Explain an output whose class dimension is set by a tensor that the model does not register."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.reachable_code import is_foreign
from pytest_headswap.engine.dataflow.dim_tracer import ClassAxis, Tracer
from pytest_headswap.engine.dataflow.graph import Graph
from pytest_headswap.engine.errors import HeadSwapError, NoHeadError
from pytest_headswap.engine.pytorch.modules import named_modules

_MAX_DEPTH = 4
_REGISTRIES = frozenset(nn.Module().__dict__)


def unregistered_weight_error(
    model: nn.Module, graphs: Sequence[Graph], tracers: Sequence[Tracer]
) -> HeadSwapError | None:
    """Return an error if features are multiplied with a tensor that sets an output dimension but is not registered.

    Also return one if an output is computed out of sight.
    """
    for graph, tracer in zip(graphs, tracers, strict=True):
        for label, value in graph.outputs.items():
            if value in graph.constants:
                return HeadSwapError(
                    "opaque_output",
                    f"{label} is a constant, or is computed where the engine does not see it, such as in another "
                    "thread: compute it in the thread that calls forward",
                )
            for dim, size in reversed(list(enumerate(value.shape))):
                trace = tracer.trace_back(ClassAxis(value, dim), size)
                if trace.from_input or size == 0:
                    continue
                if not trace.unregistered:
                    continue
                found = [axis.value for axis in trace.sources if axis.value in graph.constants]
                source = max(found or [trace.unregistered[0].value], key=lambda value: len(value.shape))
                what = f"dimension {dim} of {label} is set by a tensor of shape {source.shape}"
                if not found:
                    return NoHeadError(
                        "no_layer_sets_output", f"{what} that forward creates: create it, or its layer, in __init__"
                    )
                return _error(model, what, source.shape, graph.constants[source]())
    return None


def _error(model: nn.Module, what: str, shape: tuple[int, ...], tensor: torch.Tensor | None) -> HeadSwapError:
    place = place_of_tensor(model, tensor, shape)
    return HeadSwapError(
        "unsupported_layer",
        f"{what}{f' ({place})' * bool(place)} that "
        f"{type(model).__name__} does not register, so model.parameters() lacks it. Assign its layer to an attribute "
        "of the model (several layers in an nn.ModuleList or nn.ModuleDict), or a plain tensor as an nn.Parameter",
    )


def place_of_tensor(model: nn.Module, tensor: torch.Tensor | None, shape: tuple[int, ...]) -> str:
    """Return an expression for a place that holds the tensor, such as `blocks[0].weight`; empty if none is found."""

    def is_it(value: Any) -> bool:
        return tensor is not None and value is tensor

    def is_like_it(value: Any) -> bool:  # a stand-in replaced the tensor during the run
        return isinstance(value, torch.Tensor) and value.shape == shape

    return next((place for matches in (is_it, is_like_it) for place in _places(model, matches)), "")


def _places(model: nn.Module, matches: Callable[[Any], bool]) -> Iterator[str]:
    """Yield the places that hold such a tensor: attributes, containers, and variables that a function sees."""
    for path, module in named_modules(model):
        prefix = f"{path}." if path else ""
        for key, value in module.__dict__.items():
            if key not in _REGISTRIES:
                yield from _search(value, f"{prefix}{key}", matches, 0)
        for kind in type(module).__mro__:
            for name, function in () if is_foreign(kind) else vars(kind).items():
                if isinstance(function, types.FunctionType):
                    yield from _search(function, f"{prefix}{name}", matches, 0)


def _search(value: Any, label: str, matches: Callable[[Any], bool], depth: int) -> Iterator[str]:
    if matches(value):
        yield label
    elif isinstance(value, nn.Module):
        yield from (f"{label}.{name}" for name, own in value.named_parameters() if matches(own))
    elif depth < _MAX_DEPTH:
        for name, item in _items(value, label):
            yield from _search(item, name, matches, depth + 1)


def _items(value: Any, label: str) -> list[tuple[str, Any]]:
    if isinstance(value, (types.ModuleType, type)):
        return []
    if isinstance(value, Mapping):
        return [(f"{label}[{key!r}]", item) for key, item in value.items()]
    if isinstance(value, (tuple, list)):
        return [(f"{label}[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, partial):
        return [(f"{label}.func", value.func), (f"{label}.args", value.args), (f"{label}.keywords", value.keywords)]
    if isinstance(value, types.MethodType):
        return [(f"{label}.__self__", value.__self__), (label, value.__func__)]
    if isinstance(value, types.FunctionType):
        seen = inspect.getclosurevars(value)
        return [(f"{label}: {name}", item) for name, item in (*seen.nonlocals.items(), *seen.globals.items())]
    return [(f"{label}.{name}", item) for name, item in getattr(value, "__dict__", {}).items()]
