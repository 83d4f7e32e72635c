"""Run a model abstractly in both modes, and keep its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from pytest_headswap.engine import (
    META,
    AbstractRun,
    Graph,
    HeadSwapError,
    Inputs,
    SearchResult,
    abstract_run,
    flatten_outputs,
    meta_run_with_device_checks,
    record_with_device_checks,
)


@dataclass(frozen=True)
class OriginalRun:
    """The output shapes in one mode by label and the kind of tensors used, or the reason why the model did not run."""

    shapes: dict[str, tuple[int, ...]]
    tensor_kind: str = META
    error: HeadSwapError | None = None


def original_runs(search: SearchResult) -> dict[bool, OriginalRun]:
    """Return the output shapes of the model as built, in eval mode (`False`) and train mode (`True`)."""
    by_mode = {
        training: OriginalRun(search.shapes[training], search.tensor_kinds[training]) for training in search.shapes
    }
    return {False: by_mode[False], True: by_mode.get(True) or OriginalRun({}, error=search.train_error)}


@dataclass(frozen=True)
class ModeRun:
    """The run of a model in one mode, or the reason why it failed. One of `run` and `error` is None."""

    run: AbstractRun | None = None
    error: HeadSwapError | None = None
    graph: Graph | None = None
    """The data flow in eval mode, if it could be recorded."""

    @cached_property
    def outputs(self) -> dict[str, torch.Tensor]:
        """Return the floating-point outputs by label; empty if the model did not run."""
        outputs = flatten_outputs(self.run.outputs) if self.run is not None else []
        return {label: tensor for label, tensor in outputs if tensor.is_floating_point()}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each output."""
        return {label: tuple(tensor.shape) for label, tensor in self.outputs.items()}


def run_modes(model: nn.Module, inputs: Inputs) -> dict[bool, ModeRun]:
    """Run the model abstractly in eval and train mode, and record where CPU tensors meet those of the model.

    The data flow is recorded only in eval mode.
    """
    return {training: _run_with_device_checks(model, inputs, training) for training in (False, True)}


def _run_with_device_checks(model: nn.Module, inputs: Inputs, training: bool) -> ModeRun:
    try:
        if training:
            return ModeRun(meta_run_with_device_checks(model, inputs, training=True))
        run, graph = record_with_device_checks(model, inputs)
        return ModeRun(run, graph=graph)
    except Exception:  # noqa: BLE001 - a model may raise anything; the plain run succeeds or reports it
        return run_mode(model, inputs, training)


def run_mode(model: nn.Module, inputs: Inputs, training: bool) -> ModeRun:
    """Run the model abstractly in one mode."""
    try:
        return ModeRun(abstract_run(model, inputs, training=training))
    except HeadSwapError as error:
        return ModeRun(error=error)


def mode_name(training: bool) -> str:
    """Return the name of the mode: `train mode` or `eval mode`."""
    return "train mode" if training else "eval mode"
