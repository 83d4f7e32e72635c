"""Run a model on stand-in tensors without modifying it; on the meta device when possible.

During a run, the `__dict__` of every module holds stand-ins for parameters, buffers and other tensors, and copies of
containers. All writes in forward go there. The originals are always restored, also after an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.device_mode import DeviceWatch
from pytest_headswap.engine.abstract.meta_cache import Execute, run_as_torch
from pytest_headswap.engine.abstract.stand_ins import FAKE, META, REAL, WAYS, StandIns, _OnDevice, preserved
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs, as_inputs
from pytest_headswap.engine.pytorch.internals import (
    fake_tensor_mode,
    plain_kernels,
    quiet_fake_tensors,
)
from pytest_headswap.engine.pytorch.modules import (
    buffers_of,
    each_once,
    named_modules,
    parameters_of,
    set_mode,
)


@dataclass(frozen=True)
class AbstractRun:
    """The result of an abstract run.

    Attributes:
        outputs: what `forward` returned, with stand-in tensors.
        parameters: the stand-ins of the parameters by full name; tied ones appear under each name.
        held: all stand-ins for tensors of the model, including those that are neither parameters nor buffers.
        way: the kind of tensors the model ran on: `meta`, `fake` or `real`.
        met: messages that say where CPU tensors met those of the model; None if this was not recorded.
    """

    outputs: Any
    parameters: Mapping[str, torch.Tensor]
    held: tuple[torch.Tensor, ...]
    way: str
    met: tuple[str, ...] | None = None


Around = Callable[["StandIns"], AbstractContextManager[None]]
Recording = Callable[["StandIns", Sequence[tuple[str, nn.Module]], Execute], AbstractContextManager[None]]


def abstract_run(
    model: nn.Module,
    example_inputs: Any,
    *,
    training: bool = False,
    ways: Sequence[str] = WAYS,
    around: Around | None = None,
    recording: Recording | None = None,
) -> AbstractRun:
    """Run `model` on stand-ins in train or eval mode. The model, the inputs and all RNG states are unchanged.

    Stand-ins keep shape, stride, dtype and `requires_grad`. Under `torch.enable_grad()` the outputs therefore have
    the autograd graph of a real run.

    Args:
        model: the model.
        example_inputs: as for `find_heads`; required.
        training: True for train mode.
        ways: kinds of tensors to try, in order, until one succeeds.
        around: takes the stand-ins and returns a context manager that wraps forward.
        recording: takes the stand-ins, the modules under all their names, and a function that runs an operation.
            Returns a dispatch mode that runs operations with this function.

    Returns:
        The outputs and stand-ins of the run that succeeded.

    Raises:
        HeadSwapError: `forward_failed`, with the exception of the model as `__cause__`.
    """
    inputs = as_inputs(example_inputs)
    failed: Exception | None = None
    for way in ways:
        if way == REAL and any(tensor.is_meta for tensor in (*model.parameters(), *inputs.tensors())):
            continue  # meta tensors have no values
        try:
            return _run(model, inputs, training, way, around, recording)
        except HeadSwapError:
            raise
        except Exception as error:  # noqa: BLE001 - a model may raise anything; try the next kind
            failed = error
    assert failed is not None, "the first way is always tried"
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs.tensors())
    remedy = "Pass example_inputs that the model accepts"
    if any(parameter.is_meta for parameter in model.parameters()):
        remedy += ", or build the model on a real device: tensors on the meta device have no values"
    raise HeadSwapError(
        "forward_failed",
        f"{type(model).__name__}.forward raised {type(failed).__name__} in {'train' if training else 'eval'} mode on "
        f"inputs of shape {shapes}: {_first_line(failed)}. {remedy}",
    ) from failed


def watched_run(model: nn.Module, inputs: Inputs, *, training: bool, recording: Recording | None = None) -> AbstractRun:
    """Run on the meta device and record where CPU tensors meet those of the model. Raise what the model raises."""
    return _run(model, inputs, training, META, None, recording, watched=True)


def _run(
    model: nn.Module,
    inputs: Inputs,
    training: bool,
    way: str,
    around: Around | None,
    recording: Recording | None,
    *,
    watched: bool = False,
) -> AbstractRun:
    with ExitStack() as stack:
        fake = fake_tensor_mode() if way == FAKE else None
        device_of_model = next((p.device for p in model.parameters() if not p.is_meta), None)
        stand_ins = StandIns(way, fake, device_of_model)
        named = named_modules(model, every_name=True)
        inside = each_once(named)
        if watched:
            registered = (item for items in (parameters_of(named), buffers_of(named)) for _, item in items)
            stand_ins = _OnDevice([*registered, *inputs.tensors()])
        stack.enter_context(preserved(model, stand_ins, inside))
        held = stand_ins.tensors()
        set_mode(model, inside, training)
        given = inputs.map_tensors(stand_ins.of)
        stack.enter_context(plain_kernels())
        if fake is not None:
            stack.enter_context(quiet_fake_tensors())
            stack.enter_context(fake)
        if around is not None:
            stack.enter_context(around(stand_ins))
        device = DeviceWatch(lets_go=watched) if way == META else None
        if recording is not None:
            execute = device.run if device is not None else run_as_torch
            stack.enter_context(recording(stand_ins, named, execute))
        elif device is not None:
            stack.enter_context(device)
        outputs = model(*given.args, **(given.kwargs or {}))
        met = tuple(device.met) if device is not None and watched else None
        return AbstractRun(outputs, dict(parameters_of(named)), held, way, met)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no message"
