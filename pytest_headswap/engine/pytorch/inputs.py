"""Inputs of a model: the user's example inputs as positional and keyword arguments of `forward`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.internals import map_tensors, tree_leaves


@dataclass(frozen=True)
class Inputs:
    """Arguments of one call of `forward`."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def map_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
        """Return the same arguments with `change` applied to each tensor, including nested ones."""
        return Inputs(map_tensors(self.args, change), map_tensors(dict(self.kwargs), change))

    def tensors(self) -> list[torch.Tensor]:
        """Return all tensors among the arguments, including nested ones."""
        return [leaf for leaf in tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, torch.Tensor)]


def read_inputs(example_inputs: Any) -> Inputs | None:
    """Read `example_inputs`: a tensor, a tuple of positional inputs, a mapping of keyword inputs, or None.

    Only functions that users call read inputs. All others take `Inputs`.

    Returns:
        The arguments of `forward`, or None if the inputs are to be inferred.

    Raises:
        HeadSwapError: `bad_inputs`, for any other type, or if there is no tensor.
    """
    if example_inputs is None or isinstance(example_inputs, Inputs):
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
