"""Example inputs of the user as positional and keyword arguments of `forward`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pytest_headswap.engine.errors import HeadSwapError


@dataclass(frozen=True)
class Inputs:
    """Arguments of one call of `forward`."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None

    def map_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
        """Return the same arguments with `change` applied to each tensor, including nested ones."""
        args = tuple(map_tensors(value, change) for value in self.args)
        return Inputs(args, {key: map_tensors(value, change) for key, value in (self.kwargs or {}).items()})

    def tensors(self) -> list[torch.Tensor]:
        """Return all tensors among the arguments, including nested ones."""
        found: list[torch.Tensor] = []

        def note(tensor: torch.Tensor) -> torch.Tensor:
            found.append(tensor)
            return tensor

        self.map_tensors(note)
        return found


def as_inputs(example_inputs: Any) -> Inputs:
    """Read `example_inputs`: a tensor, a tuple of positional inputs or a mapping of keyword inputs.

    Raises:
        HeadSwapError: `bad_inputs`, for any other type, or if there is no tensor.
    """
    if isinstance(example_inputs, Inputs):
        return example_inputs
    if isinstance(example_inputs, torch.Tensor):
        inputs = Inputs((example_inputs,))
    elif isinstance(example_inputs, Mapping) and all(isinstance(key, str) for key in example_inputs):
        inputs = Inputs((), dict(example_inputs))
    elif isinstance(example_inputs, (tuple, list)):
        inputs = Inputs(tuple(example_inputs))
    else:
        raise HeadSwapError(
            "bad_inputs",
            "example_inputs must be a tensor, a tuple of positional inputs or a mapping of keyword inputs, "
            f"not {type(example_inputs).__name__}",
        )
    if not inputs.tensors():
        raise HeadSwapError("bad_inputs", "example_inputs contains no tensor: pass the arguments of model.forward")
    return inputs


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return `value` with `change` applied to each tensor in it. Lists, tuples and dicts are rebuilt."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if type(value) in (list, tuple):
        return type(value)(map_tensors(item, change) for item in value)
    if type(value) is dict:
        return {key: map_tensors(item, change) for key, item in value.items()}
    return value
