"""A case: one model of a zoo, built once, its head swapped, and the runs that the checks share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pytest_headswap.engine import HeadSwapError, Swap, abstract_run, swap_head
from pytest_headswap.engine.outputs import flatten_outputs

if TYPE_CHECKING:
    from pytest_headswap.zoo import ModelSpec

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ModeRun:
    """What a model returned in one mode: the shape of each output, or why it did not run."""

    shapes: Shapes = field(default_factory=dict)
    error: HeadSwapError | None = None


@dataclass
class Case:
    """One model with its head swapped. Checks look at it and leave it as it is.

    Attributes:
        zoo: name of the zoo.
        spec: where the model came from.
        num_classes: class count that was asked for.
        model: the model after the swap.
        inputs: what `forward` takes.
        swap: what the engine did.
        before: the outputs of the model as the zoo built it, for `False` (eval) and `True` (train).
    """

    zoo: str
    spec: ModelSpec
    num_classes: int
    model: nn.Module
    inputs: Any
    swap: Swap
    before: dict[bool, ModeRun]

    @cached_property
    def after(self) -> dict[bool, ModeRun]:
        """The outputs after the swap, in both modes. Run once, when a check first asks."""
        return run_modes(self.model, self.inputs)


def build_case(zoo: str, spec: ModelSpec, num_classes: int) -> Case:
    """Build the model of `spec` without memory, note what it returns, and swap its head.

    Raises:
        NoHeadError: the model has no head.
        HeadSwapError: the head was not swapped, or the model does not run on its own inputs.
        Exception: whatever the zoo raises while building the model or its inputs.
    """
    with torch.device("meta"):
        model = spec.build()
        inputs = spec.example_inputs(model) if spec.example_inputs is not None else None
    before = run_modes(model, inputs)
    swap = swap_head(model, num_classes, inputs)
    return Case(zoo, spec, num_classes, swap.model, inputs, swap, before)


def run_modes(model: nn.Module, inputs: Any) -> dict[bool, ModeRun]:
    """Run the model abstractly in eval and in train mode."""
    return {training: _run_mode(model, inputs, training) for training in (False, True)}


def _run_mode(model: nn.Module, inputs: Any, training: bool) -> ModeRun:
    try:
        with torch.no_grad():
            outputs = abstract_run(model, inputs, training=training).outputs
    except HeadSwapError as error:
        return ModeRun(error=error)
    return ModeRun({label: tuple(tensor.shape) for label, tensor in flatten_outputs(outputs)})


def mode_name(training: bool) -> str:
    """The mode in words."""
    return "train mode" if training else "eval mode"
