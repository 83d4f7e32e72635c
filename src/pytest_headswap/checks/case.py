"""A case: one model of a zoo, built once, its head swapped, and the runs that the checks share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from pytest_headswap.checks.finding import STRUCTURE
from pytest_headswap.engine import AbstractRun, HeadSwapError, NoHeadError, Swap, abstract_run, swap_head
from pytest_headswap.engine.abstract import META, WAYS
from pytest_headswap.engine.guess import inputs_for
from pytest_headswap.engine.outputs import flatten_outputs

if TYPE_CHECKING:
    from pytest_headswap.zoo import ModelSpec


T = TypeVar("T")

_CHEAP = 2**30  # bytes of parameters that may be made real for the sake of train mode


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
        before: the runs of the model as the zoo built it, in eval mode (`False`) and train mode (`True`).
    """

    zoo: str
    spec: ModelSpec
    num_classes: int
    model: nn.Module
    inputs: Any
    swap: Swap
    before: dict[bool, ModeRun]

    @property
    def evidence(self) -> str:
        """What a verdict on this case rests on: `structure`, and how the model was run where meta did not do."""
        ways = {mode.run.way for mode in self.before.values() if mode.run is not None}
        way = next((way for way in reversed(WAYS) if way in ways), META)
        return STRUCTURE if way == META else f"{STRUCTURE}, {way} tensors"

    @cached_property
    def after(self) -> dict[bool, ModeRun]:
        """The runs after the swap, with gradients and all but the new head frozen. Made when a check first asks."""
        with only_trainable(self.model, self.swap.parameters()), torch.enable_grad():
            return run_modes(self.model, self.inputs)


def build_case(zoo: str, spec: ModelSpec, num_classes: int) -> Case:
    """Build the model of `spec`, without memory where that is possible, note what it returns, and swap its head.

    Raises:
        NoHeadError: the model has no head, or the zoo refuses it.
        HeadSwapError: the head was not swapped, or the model does not run on its own inputs.
        Exception: whatever the zoo raises while building the model or its inputs.
    """
    if spec.refusal:
        raise NoHeadError("zoo_refused", f"{spec.name}: {spec.refusal}")
    with torch.no_grad():
        model, inputs, before = on_meta_if_possible(lambda: _built(spec))
    swap = swap_head(model, num_classes, inputs, head=spec.head)
    return Case(zoo, spec, num_classes, swap.model, inputs, swap, before)


def on_meta_if_possible(build: Callable[[], T]) -> T:
    """Build on meta, and again with memory if that raises: some models compute with values in their initialisers."""
    with suppress(Exception), torch.device("meta"):  # what remains of it is raised by the second attempt
        return build()
    return build()


def _built(spec: ModelSpec) -> tuple[nn.Module, Any, dict[bool, ModeRun]]:
    """A model, inputs for it, and its runs.

    Raises when it does not run and memory may be what is missing: in eval mode, or in train mode where that
    costs little (some models draw masks with NumPy while they train).
    """
    model = spec.build()
    inputs = inputs_for(model, spec.example_inputs(model) if spec.example_inputs is not None else None)
    before = run_modes(model, inputs, outputs_only=True)
    error = before[False].error
    if before[True].error is not None and 0 < _meta_bytes(model) <= _CHEAP:
        error = error or before[True].error
    if error is not None:
        raise error
    return model, inputs, before


def _meta_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters() if parameter.is_meta)


def run_modes(model: nn.Module, inputs: Any, outputs_only: bool = False) -> dict[bool, ModeRun]:
    """Run the model abstractly in eval and in train mode; `outputs_only` lets go of the stand-ins of a run."""
    runs = {training: _run_mode(model, inputs, training) for training in (False, True)}
    if outputs_only:
        runs = {training: mode.without_stand_ins() for training, mode in runs.items()}
    return runs


def _run_mode(model: nn.Module, inputs: Any, training: bool) -> ModeRun:
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
