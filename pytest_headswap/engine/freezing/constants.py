"""Compute the values of tensors in a recorded graph that depend on constants alone, such as an index."""

from __future__ import annotations

from typing import Any

import torch

from pytest_headswap.engine.dataflow.graph import Graph, Value

_MAX_ELEMENTS = 2**20
_PLACES = frozenset(("device", "layout", "pin_memory"))


def constant_value(graph: Graph, value: Value) -> torch.Tensor | None:
    """Return the values of a tensor on the CPU; None if they depend on an input or the model, or are unknown."""
    if value.from_input:
        return None
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            result: torch.Tensor = _compute(graph, value)
            return result
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, _UnknownError):
        return None


class _UnknownError(Exception):
    """The value is not computed from constants alone."""


def _compute(graph: Graph, value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_compute(graph, item) for item in value]
    if not isinstance(value, Value):
        return value
    if value.node is not None:
        operation = getattr(torch.ops.aten, value.node.name.removeprefix("aten::"))
        kwargs = {key: _compute(graph, item) for key, item in value.node.kwargs.items() if key not in _PLACES}
        result = operation(*_compute(graph, value.node.args), **kwargs)
        return result if isinstance(result, torch.Tensor) else result[value.index]
    reference = graph.constants.get(value)
    tensor = reference() if reference is not None else None
    if type(tensor) is not torch.Tensor or tensor.device.type != "cpu" or tensor.numel() > _MAX_ELEMENTS:
        raise _UnknownError
    return tensor.clone()
