"""Abstract runs of a model in both modes, for what it returns there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine import AbstractRun, HeadSwapError, abstract_run
from pytest_headswap.engine.outputs import flatten_outputs


@dataclass(frozen=True)
class ModeRun:
    """What a model returned in one mode, or why it did not run: one of the two is None."""

    run: AbstractRun | None = None
    error: HeadSwapError | None = None

    def without_stand_ins(self) -> ModeRun:
        """The same without the copies of all tensors that a real run is made with."""
        return replace(self, run=replace(self.run, parameters={}, buffers={}, held=())) if self.run else self

    @cached_property
    def outputs(self) -> dict[str, torch.Tensor]:
        """Each tensor that was returned, by its label; empty when the model did not run."""
        return dict(flatten_outputs(self.run.outputs)) if self.run is not None else {}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each output."""
        return {label: tuple(tensor.shape) for label, tensor in self.outputs.items()}


def run_modes(model: nn.Module, inputs: Any, outputs_only: bool = False) -> dict[bool, ModeRun]:
    """Run the model abstractly in eval and in train mode; `outputs_only` lets go of the stand-ins of a run."""
    runs = {training: run_mode(model, inputs, training) for training in (False, True)}
    if outputs_only:
        runs = {training: mode.without_stand_ins() for training, mode in runs.items()}
    return runs


def run_mode(model: nn.Module, inputs: Any, training: bool) -> ModeRun:
    """Run the model abstractly in one mode."""
    try:
        return ModeRun(abstract_run(model, inputs, training=training))
    except HeadSwapError as error:
        return ModeRun(error=error)


@contextmanager
def only_trainable(model: nn.Module, trainable: Iterable[nn.Parameter]) -> Iterator[None]:
    """Freeze all parameters but these for the length of the block."""
    chosen = {id(parameter) for parameter in trainable}
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(id(parameter) in chosen)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def mode_name(training: bool) -> str:
    """The mode in words."""
    return "train mode" if training else "eval mode"
