"""Run a model without touching it, with stand-ins for all its tensors: on the meta device where that does.

For the length of a run every module's `__dict__` is replaced by one whose parameters, buffers and
other tensors are stand-ins and whose containers are copies. What forward writes lands there, and
the originals come back afterwards, whatever happened.
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
    """What came out of an abstract run.

    `outputs` has the structure that `forward` returned, with stand-in tensors in it. `parameters` maps
    full names to the stand-ins that were used; tied ones appear under each name.
    `held` are all stand-ins for tensors of the model, those included that are neither parameter nor
    buffer. `way` is how the model was run: `meta`, `fake` or `real`. `met` says where tensors of the CPU
    met those of the model; None where nobody watched.
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
    """Run `model` on stand-ins in train or eval mode; the model, the inputs and all RNG stay as they are.

    Stand-ins keep shape, stride, dtype and `requires_grad`, so under `torch.enable_grad()` the outputs
    have the autograd graph that a real run would have. The ways are tried in their order until one
    succeeds. `around` is called with the stand-ins and returns a context manager that is active around
    forward; `recording` also with the modules under all their names and with what runs an operation, and returns a
    dispatch mode that runs them that way.

    Raises:
        HeadSwapError: `forward_failed`, with the model's own exception as `__cause__`.
    """
    inputs = as_inputs(example_inputs)
    failed: Exception | None = None
    for way in ways:
        if way == REAL and any(tensor.is_meta for tensor in (*model.parameters(), *inputs.tensors())):
            continue  # there are no values
        try:
            return _run(model, inputs, training, way, around, recording)
        except HeadSwapError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a model raises, the next way may do
            failed = error
    assert failed is not None, "the first way is always tried"
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs.tensors())
    remedy = "Pass example_inputs that the model accepts"
    if any(parameter.is_meta for parameter in model.parameters()):
        remedy += ", or build the model with memory: on the meta device it has no values to compute with"
    raise HeadSwapError(
        "forward_failed",
        f"{type(model).__name__}.forward raised {type(failed).__name__} in {'train' if training else 'eval'} mode on "
        f"inputs of shape {shapes}: {_first_line(failed)}. {remedy}",
    ) from failed


def watched_run(model: nn.Module, inputs: Inputs, *, training: bool, recording: Recording | None = None) -> AbstractRun:
    """A run on the meta device that notes where tensors of the CPU meet those of the model; raises what that raises."""
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
