"""Inputs of a model: the user's example inputs as positional and keyword arguments of `forward`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.input_objects import map_nested_tensors, nested_tensors


@dataclass(frozen=True)
class Inputs:
    """Arguments of one call of `forward`."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def map_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
        """Return the same arguments with `change` applied to each tensor, at any depth."""
        args, kwargs = map_nested_tensors((self.args, dict(self.kwargs)), change)
        return Inputs(args, kwargs)

    def copied(self) -> Inputs:
        """Return the inputs with copies of the tensors, for a forward pass that may write to them."""
        return self.map_tensors(torch.Tensor.clone)

    def tensors(self) -> list[torch.Tensor]:
        """Return all tensors among the arguments, at any depth."""
        return nested_tensors((self.args, dict(self.kwargs)))

    def tensor_names(self, forward: Callable[..., Any]) -> list[str]:
        """Return the argument of `forward` that each tensor belongs to, such as `labels`, in the order of `tensors`."""
        names = [f"number {index}" for index in range(len(self.args))]
        with suppress(TypeError, ValueError):  # such as a forward in C
            kinds = inspect.signature(forward).parameters.values()
            known = [item.name for item in kinds if item.kind not in (item.VAR_POSITIONAL, item.KEYWORD_ONLY)]
            names[: len(known)] = known[: len(names)]
        arguments = [*zip(names, self.args, strict=True), *self.kwargs.items()]
        return [name for name, value in arguments for _ in nested_tensors(value)]

    def without_values(self) -> Inputs:
        """Return the inputs with floating-point tensors on the meta device, so that they take no memory."""
        return self.map_tensors(lambda tensor: tensor.to("meta") if tensor.is_floating_point() else tensor)

    def with_values(self, device: torch.device) -> Inputs:
        """Return the inputs with zeros on `device` in place of meta tensors."""
        return self.map_tensors(
            lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype, device=device) if tensor.is_meta else tensor
        )


def read_inputs(example_inputs: Any) -> Inputs | None:
    """Read `example_inputs`: positional inputs in a tuple or list, keyword inputs in a mapping, or the only input.

    The only input can be a tensor, or an object with tensors: a dataclass, a named tuple, or any other class. Only
    functions that users call read inputs. All others take `Inputs`.

    Returns:
        The arguments of `forward`, or None if the inputs are to be inferred.

    Raises:
        HeadSwapError: `bad_inputs`, if there is no tensor, a nested one, or a data set in place of a batch.
    """
    if example_inputs is None or isinstance(example_inputs, Inputs):
        return example_inputs
    if isinstance(example_inputs, Mapping) and all(isinstance(key, str) for key in example_inputs):
        inputs = Inputs((), dict(example_inputs))
    elif isinstance(example_inputs, (tuple, list)) and not hasattr(example_inputs, "_fields"):
        inputs = Inputs(tuple(example_inputs))
    else:
        inputs = Inputs((example_inputs,))
    kind = type(example_inputs).__name__
    if isinstance(example_inputs, (DataLoader, Dataset, Iterator)):
        raise HeadSwapError("bad_inputs", f"example_inputs is a {kind}: pass one batch of it, as the model receives it")
    tensors = inputs.tensors()
    if not tensors:
        raise HeadSwapError(
            "bad_inputs",
            f"example_inputs, of type {kind}, contains no tensor: pass {_tensor_for(example_inputs)}a tensor, a tuple "
            "of positional inputs, a mapping of keyword inputs, or an object with tensors",
        )
    if any(tensor.is_nested for tensor in tensors):
        raise HeadSwapError(
            "bad_inputs", "example_inputs contains a nested tensor: pass a padded batch, as from to_padded_tensor(0.0)"
        )
    return inputs


def _tensor_for(value: Any) -> str:
    """Return how to make a tensor of a value that is none, or "" if that is unclear."""
    items = value if isinstance(value, (tuple, list)) else (value,)
    if any(hasattr(type(item), "__array_interface__") for item in items):
        return "torch.as_tensor(array) for an array, "
    if items and all(type(item) is int for item in items):
        return f"torch.zeros({', '.join(map(str, items))}) for a shape, "
    return ""
