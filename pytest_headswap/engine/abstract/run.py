"""Run a model on stand-in tensors without modifying it; on the meta device when possible.

During a run, the `__dict__` of every module holds stand-ins for parameters, buffers and other tensors, and copies of
containers. All writes in forward go there. The originals are always restored, also after an exception.
"""

from __future__ import annotations

import contextvars
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.device_mode import DeviceMixingMode
from pytest_headswap.engine.abstract.meta_cache import Execute, call_op
from pytest_headswap.engine.abstract.stand_ins import (
    FAKE,
    META,
    REAL,
    TENSOR_KINDS,
    DeviceStandIns,
    StandIns,
    substituted,
)
from pytest_headswap.engine.errors import HeadSwapError, HeadSwapWarning
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import (
    disable_fused_kernels,
    fake_tensor_mode,
    silence_fake_tensor_log,
)
from pytest_headswap.engine.pytorch.modules import (
    buffers_of,
    named_modules,
    parameters_of,
    unique_modules,
)
from pytest_headswap.engine.pytorch.source_lines import place_of_error


@dataclass(frozen=True)
class AbstractRun:
    """The result of an abstract run.

    Attributes:
        outputs: what `forward` returned, with stand-in tensors.
        parameters: the stand-ins of the parameters by full name; tied ones appear under each name.
        stand_ins: all stand-ins for tensors of the model, including those that are neither parameters nor buffers.
        tensor_kind: the kind of tensors the model ran on: `meta`, `fake` or `real`.
        device_mixes: messages that say where CPU tensors met those of the model; None if this was not recorded.
    """

    outputs: Any
    parameters: Mapping[str, torch.Tensor]
    stand_ins: tuple[torch.Tensor, ...]
    tensor_kind: str
    device_mixes: tuple[str, ...] | None = None


RunContext = Callable[["StandIns"], AbstractContextManager[object]]
RecorderFactory = Callable[["StandIns", Sequence[tuple[str, nn.Module]], Execute], AbstractContextManager[object]]


def abstract_run(
    model: nn.Module,
    inputs: Inputs,
    *,
    training: bool = False,
    tensor_kinds: Sequence[str] = TENSOR_KINDS,
    context: RunContext | None = None,
    recorder: RecorderFactory | None = None,
) -> AbstractRun:
    """Run `model` on stand-ins in train or eval mode. The model, the inputs and all RNG states are unchanged.

    Stand-ins keep shape, stride, dtype and `requires_grad`. Under `torch.enable_grad()` the outputs therefore have
    the autograd graph of a real run.

    Args:
        model: the model.
        inputs: the arguments of forward.
        training: True for train mode.
        tensor_kinds: kinds of tensors to try, in order, until one succeeds.
        context: takes the stand-ins and returns a context manager that wraps forward.
        recorder: takes the stand-ins, the modules under all their names, and a function that runs an operation.
            Returns a dispatch mode that runs operations with this function.

    Returns:
        The outputs and stand-ins of the run that succeeded.

    Raises:
        HeadSwapError: `forward_failed`, with the exception of the model as `__cause__`.
    """
    last_error: Exception | None = None
    for tensor_kind in tensor_kinds:
        if tensor_kind == REAL and any(tensor.is_meta for tensor in model.parameters()):
            continue  # meta tensors have no values
        try:
            return _run(model, inputs, training, tensor_kind, context, recorder)
        except HeadSwapError:
            raise
        except Exception as error:  # noqa: BLE001 - a model may raise anything; try the next kind
            last_error = error
    if last_error is None:
        last_error = RuntimeError("this model needs values to run, and tensors on the meta device have none")
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs.tensors())
    if any(parameter.is_meta for parameter in model.parameters()):
        remedy = (
            "Pass example_inputs that the model accepts, or build the model on a real device: tensors on the meta "
            "device have no values"
        )
    elif 'missing the required "forward"' in str(last_error):
        remedy = "Pass the module whose forward method runs it"
    elif not may_depend_on_inputs(last_error):
        remedy = "Other inputs will not help: make sure that the model runs on a real batch first"
    elif _takes_one_list(model, inputs):
        remedy = (
            "A tuple or list holds one argument for each of its items. To pass a list as the only argument, use "
            "example_inputs=([...],)"
        )
    else:
        line, _ = place_of_error(last_error, model)
        where = f", or correct the model: it was raised at {line!r}" if line else ""
        remedy = _signature_if_misfit(model, inputs) or f"Pass example_inputs that the model accepts{where}"
    raise HeadSwapError(
        "forward_failed",
        f"{type(model).__name__}.forward raised {type(last_error).__name__} in {'train' if training else 'eval'} mode "
        f"on inputs of shape {shapes}: {first_line(last_error)}. {remedy}",
    ) from last_error


def _signature_if_misfit(model: nn.Module, inputs: Inputs) -> str:
    """Return a sentence with the arguments of forward if the inputs do not match them, otherwise ""."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*inputs.args, **inputs.kwargs)
    except TypeError:
        names = ", ".join(map(str, signature.parameters.values()))
        return f"forward takes ({names}): pass a tuple of positional inputs or a mapping of keyword inputs for these"
    return ""


def meta_run_with_device_checks(
    model: nn.Module, inputs: Inputs, *, training: bool, recorder: RecorderFactory | None = None
) -> AbstractRun:
    """Run on the meta device and record where CPU tensors meet those of the model. Raise what the model raises."""
    return _run(model, inputs, training, META, None, recorder, check_devices=True)


def _run(
    model: nn.Module,
    inputs: Inputs,
    training: bool,
    tensor_kind: str,
    context: RunContext | None,
    recorder: RecorderFactory | None,
    *,
    check_devices: bool = False,
) -> AbstractRun:
    with ExitStack() as stack:
        fake = fake_tensor_mode() if tensor_kind == FAKE else None
        device_of_model = next((p.device for p in model.parameters() if not p.is_meta), None)
        stand_ins = StandIns(tensor_kind, fake, device_of_model)
        named = named_modules(model, include_aliases=True)
        module_list = unique_modules(named)
        if check_devices:
            registered = (item for items in (parameters_of(named), buffers_of(named)) for _, item in items)
            stand_ins = DeviceStandIns([*registered, *inputs.tensors()])
        stack.enter_context(substituted(model, stand_ins, module_list))
        model_stand_ins = stand_ins.tensors()
        _set_mode(model, training)
        forward_inputs = inputs.map_tensors(stand_ins.stand_in_for)
        stack.enter_context(disable_fused_kernels())
        if fake is not None:
            stack.enter_context(silence_fake_tensor_log())
            stack.enter_context(fake)
        if context is not None:
            stack.enter_context(context(stand_ins))
        device_mode = DeviceMixingMode(allow_device_to_cpu=check_devices) if tensor_kind == META else None
        if recorder is not None:
            execute = device_mode.run if device_mode is not None else call_op
            stack.enter_context(recorder(stand_ins, named, execute))
        elif device_mode is not None:
            stack.enter_context(device_mode)
        # in a copy of the context: values of context variables that forward sets are dropped with it
        outputs = contextvars.copy_context().run(model, *forward_inputs.args, **forward_inputs.kwargs)
        device_mixes = tuple(device_mode.device_mixes) if device_mode is not None and check_devices else None
        return AbstractRun(outputs, dict(parameters_of(named)), model_stand_ins, tensor_kind, device_mixes)


def _set_mode(model: nn.Module, training: bool) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HeadSwapWarning)  # what a freeze says about modules that were added later
            model.train(training)
    except NotImplementedError as error:
        raise HeadSwapError(
            "unsupported_model",
            f"{type(model).__name__} has a fixed mode, as programs of torch.export do ({first_line(error)}). Its class "
            "count is fixed too: swap the head of the Python model, then export it",
        ) from error


def _takes_one_list(model: nn.Module, inputs: Inputs) -> bool:
    """Return whether forward may take the positional inputs as one list."""
    tensors = [item for item in inputs.args if isinstance(item, torch.Tensor)]
    if len(tensors) < max(2, len(inputs.args)):
        return False
    try:
        inspect.signature(model.forward).bind(list(inputs.args), **inputs.kwargs)
    except (TypeError, ValueError):  # such as a forward in C
        return False
    return len({tensor.dim() for tensor in tensors}) == 1


def may_depend_on_inputs(error: BaseException | None) -> bool:
    """Return whether a model might not raise the error on other inputs."""
    if isinstance(error, AttributeError):
        return not isinstance(error.obj, nn.Module)
    if isinstance(error, NotImplementedError):
        return 'missing the required "forward"' not in str(error)
    return not isinstance(error, (NameError, ImportError, OSError))


def first_line(error: BaseException | None) -> str:
    """Return the first line of the message of an exception."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no message"
