"""`device_placement`: every part of the swapped model runs on the device of the model.

**Promise.** A head swapped into a model on a given device and in a given dtype has that device and dtype.
The swapped model can be moved to another device, before or after the swap. Its outputs and the gradients of its
head are then on that device.

**Evidence.** Real runs on an available device: in the model's own dtype, and in bfloat16 and float16 where the device
and the model as built support them. If there are several devices of a type, the workers of pytest-xdist take them in
turn, and the swapped model is also moved to a second one. Without a device, or if it lacks memory or a dtype of the
model, the evidence is `simulated`. Fake tensors then track the device, and the model is swapped on the meta device in
bfloat16. The model's own `to` is called, and forward sees one device: a CUDA device, or one of another type, with the
evidence `simulated mps` and the like. The simulation cannot see what only a kernel shows, such as an unsupported dtype,
or code that asks for a device in another way than through torch. Nor does it see, in a model without values, a tensor
that the model holds without registering it.

**A failure means** that the first batch on a GPU raises: a head was left on the CPU, or forward creates tensors
there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch

from pytest_headswap._devices import SIMULATED
from pytest_headswap._text import join_first
from pytest_headswap.case.abstract_runs import mode_name
from pytest_headswap.case.case import Case
from pytest_headswap.case.class_outputs import class_output_labels
from pytest_headswap.case.devices import devices_of
from pytest_headswap.case.finding import CheckFailed, CheckSkipped, describe_error
from pytest_headswap.checks.gpu_lock import run_with_device_memory
from pytest_headswap.engine import (
    Inputs,
    Swap,
    apply_plan,
    code_names_devices,
    flatten_outputs,
    move_in_simulation,
    on_fake_device,
    on_meta_device,
    on_real_device,
    reject_cpu_tensors,
)
from pytest_headswap.engine.pytorch import accelerators, is_fake_tensor_limitation, parameters

_HALF = (torch.bfloat16, torch.float16)


def device_evidence(case: Case) -> str:
    """Return the devices that the case ran on, or `simulated` with the type of the device if that is not CUDA."""
    kind = simulated_device(case).type
    return ", ".join(map(str, case.devices)) or (SIMULATED if kind == "cuda" else f"{SIMULATED} {kind}")


def simulated_device(case: Case) -> torch.device:
    """Return the device to simulate: of the type that `device` names, or else CUDA."""
    named = case.device.removeprefix(f"{SIMULATED}:").partition(":")[0]
    return torch.device("cuda" if named in ("auto", "cpu", SIMULATED) else named, 0)


def device_placement(case: Case) -> str:
    """Run the model on other devices; return a note of unsupported dtypes and of devices with too little memory."""
    _check_head_follows_model(case)
    moved = _moved_by_the_model(case)
    notes: list[str] = []
    case.devices.clear()
    devices = devices_of(case)
    runs = [partial(check_on_device, case), partial(check_moved_between, case, *devices[:1])]
    for device, run in zip(devices, runs, strict=False):
        case.devices.append(device)  # first, since a failure also rests on it
        try:
            notes.append(_run_with_memory(case.devices, partial(run, device)))
        except Exception as error:
            if not (lack := accelerators.shortcoming(error)):
                raise
            case.devices.pop()
            notes.append(f"{device} {lack}")
            break
    if not case.devices:
        notes.append(_simulate(case, moved))
    return "; ".join(note for note in notes if note)


def _run_with_memory(devices: Sequence[torch.device], run: Callable[[], str]) -> str:
    """Return the result of `run`, with access to the memory of each device."""
    for device in sorted(devices, key=lambda device: device.index, reverse=True):  # all processes lock in one order
        run = partial(run_with_device_memory, device, run)
    return run()


def _check_head_follows_model(case: Case) -> None:
    """Check that a head swapped into a model on the meta device in bfloat16 has the same device and dtype."""
    meta, dtype = torch.device("meta"), torch.bfloat16
    with case.original_head(), on_meta_device(case.model, dtype):
        swap = _swap_on(case, meta, dtype)
        try:
            _check_placement(swap, meta, dtype, "after a swap in a model on")
        finally:
            swap.restore()


def _swap_on(case: Case, device: torch.device, dtype: torch.dtype | None) -> Swap:
    """Swap the head while the model is on the device. The engine may run the model, which then needs inputs there."""
    plan = replace(case.plan, inputs=_inputs_on(case, device, dtype))
    return apply_plan(plan, case.num_classes, verify=False)


def _check_placement(swap: Swap, device: torch.device, dtype: torch.dtype | None, how: str) -> None:
    tensors = swap.state_dict()
    misplaced = [f"{name} on {tensor.device}" for name, tensor in tensors.items() if tensor.device != device]
    if misplaced:
        raise CheckFailed(f"{how} {device}, the head has {join_first(misplaced)}")
    other = [
        f"{name} in {tensor.dtype}"
        for name, tensor in tensors.items()
        if dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype
    ]
    if other:
        raise CheckFailed(f"{how} {device} in {dtype}, the head has {join_first(other)}")


def _moved_by_the_model(case: Case) -> list[torch.Tensor]:
    """Call the model's own `to` in simulation, and return the tensors that it moves."""
    device = simulated_device(case)
    try:
        moved, left = move_in_simulation(case.model, device)
    except Exception as error:
        raise CheckFailed(f"to({str(device)!r}) raises {type(error).__name__}: {error}") from error
    if left:
        raise CheckFailed(f"to({str(device)!r}) leaves {join_first(left)} where they were")
    return moved


def _simulate(case: Case, moved: Sequence[torch.Tensor]) -> str:
    """Check the outputs under fake tensors. Return a note if these could not run the code for the device.

    Leave that out if the abstract runs with device checks passed, and the code names no device that it could tell from
    another.
    """
    modes = [training for training in (False, True) if case.swapped_runs[training].error is None]
    if all(_meta_run_is_clean(case, training) for training in modes) and not code_names_devices(case.model):
        return ""
    note, device = "", simulated_device(case)
    with on_fake_device(case.model, case.inputs, device, moved) as run:
        for training in modes:
            try:
                outputs = run(training)
            except Exception as error:
                if is_fake_tensor_limitation(error):
                    _check_meta_run(case, training, error)
                    line = describe_error(error).partition("\n")[0]
                    note = f"code for {device} was not checked in {mode_name(training)}: its simulation ends at {line}"
                    continue
                raise CheckFailed(
                    f"on {device} in {mode_name(training)}, forward raises {type(error).__name__}: {error}"
                ) from error
            _check_outputs(case, outputs, device, training)
    return note


def _check_meta_run(case: Case, training: bool, error: Exception) -> None:
    """Judge by the abstract run with device checks if fake tensors cannot simulate the model. Skip without one."""
    meta_run = case.swapped_runs[training].run
    if meta_run is None or meta_run.device_mixes is None:
        raise CheckSkipped("not_simulated", f"a device cannot be simulated for {case.spec.name}: {error}") from error
    if meta_run.device_mixes:
        raise CheckFailed(f"on a device in {mode_name(training)}, {meta_run.device_mixes[0]}")
    _check_outputs(case, meta_run.outputs, torch.device("meta"), training)


def _meta_run_is_clean(case: Case, training: bool) -> bool:
    """Return whether the run with device checks mixed no devices and all head outputs are on the meta device."""
    mode = case.swapped_runs[training]
    labels = class_output_labels(case.swap.heads)
    outputs = [tensor for label, tensor in mode.outputs.items() if label in labels or not labels]
    return (
        mode.run is not None
        and mode.run.device_mixes == ()
        and (bool(outputs) or not labels)
        and all(tensor.is_meta for tensor in outputs)
    )


def _check_outputs(case: Case, returned: object, device: torch.device, training: bool) -> None:
    outputs = dict(flatten_outputs(returned))
    labels = class_output_labels(case.swap.heads) or outputs.keys()
    misplaced = [f"{n} on {t.device}" for n, t in outputs.items() if n in labels and t.device != device]
    if misplaced:
        raise CheckFailed(
            f"with the model on {device}, forward in {mode_name(training)} returns {join_first(misplaced)}"
        )
    if labels.isdisjoint(outputs):
        raise CheckFailed(f"with the model on {device}, forward in {mode_name(training)} returns no output of a head")


def check_on_device(case: Case, device: torch.device) -> str:
    """Move the model before and after the swap, in each dtype; return a note of the unsupported dtypes."""
    accelerators.require_dtypes(device, (*parameters(case.model), *case.model.buffers(), *case.inputs.tensors()))
    with on_real_device(case.model, device):
        _check_placement(case.swap, device, None, "after moving the swapped model to")
        _forward_and_backward(case, case.swap, device, None, "after moving the swapped model to")
    lacking, unsupported = [], []
    with case.original_head(), on_real_device(case.model, device):
        _swap_there(case, device, None)
        for dtype in _HALF:
            if not accelerators.supports(device, dtype):
                lacking.append(str(dtype))
                continue
            with on_real_device(case.model, device, dtype):
                if _runs(case, device, dtype):
                    _swap_there(case, device, dtype)
                else:
                    unsupported.append(str(dtype))
    notes = {f"{device} does not support": lacking, "the model as built does not run in": unsupported}
    return "; ".join(f"{note} {', '.join(dtypes)}" for note, dtypes in notes.items() if dtypes)


def _swap_there(case: Case, device: torch.device, dtype: torch.dtype | None) -> None:
    """Swap the head while the model is on the device, run the model, and restore the old head."""
    swap = _swap_on(case, device, dtype)
    try:
        _check_placement(swap, device, dtype, "after a swap in a model on")
        _forward_and_backward(case, swap, device, dtype, "after a swap on")
    finally:
        swap.restore()


def _inputs_on(case: Case, device: torch.device, dtype: torch.dtype | None) -> Inputs:
    return case.inputs.map_tensors(
        lambda tensor: tensor.to(
            device, dtype if tensor.is_floating_point() and dtype is not None else tensor.dtype, copy=True
        )
    )


def _runs(case: Case, device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the model as built runs in this dtype, in the mode used after the swap."""
    try:
        outputs = _forward(case, _inputs_on(case, device, dtype))
        accelerators.synchronize(device, _tensors_of(outputs))
    except Exception as error:
        if accelerators.is_out_of_memory(error):
            raise
        return False  # any exception counts: the model does not support this dtype
    return True


def _forward(case: Case, inputs: Inputs) -> Any:
    case.model.train(case.can_train)
    with case.seeded("forward"), torch.enable_grad():
        return case.model(*inputs.args, **inputs.kwargs)


def _tensors_of(outputs: object) -> list[torch.Tensor]:
    return [tensor for _, tensor in flatten_outputs(outputs)]


def _forward_and_backward(case: Case, swap: Swap, device: torch.device, dtype: torch.dtype | None, how: str) -> None:
    labels = class_output_labels(swap.heads)
    try:
        with reject_cpu_tensors(device):
            outputs = _forward(case, _inputs_on(case, device, dtype))
        if not labels:  # nothing to compute a gradient of
            accelerators.synchronize(device, _tensors_of(outputs))
            return
        with torch.enable_grad():
            loss = [tensor.float().square().mean() for label, tensor in flatten_outputs(outputs) if label in labels]
            new_parameters = dict(swap.named_parameters())
            gradients = cast(
                "tuple[torch.Tensor | None, ...]",  # torch's annotation omits the None that allow_unused permits
                torch.autograd.grad(torch.stack(loss).sum(), list(new_parameters.values()), allow_unused=True),
            )
        accelerators.synchronize(device, (*_tensors_of(outputs), *filter(torch.is_tensor, gradients)))
    except Exception as error:
        if accelerators.is_out_of_memory(error):
            raise
        where = f"{how} {device} in {dtype or 'its own dtype'}"
        raise CheckFailed(f"{where}, the model raises {type(error).__name__}: {error}") from error
    _check_outputs(case, outputs, device, case.can_train)
    for name, gradient in zip(new_parameters, gradients, strict=True):
        if gradient is not None and gradient.device != device:
            raise CheckFailed(f"{how} {device}, the gradient of {name} is on {gradient.device}")


def check_moved_between(case: Case, one: torch.device, other: torch.device) -> str:
    """Swap on one device, then move the model to another; there is nothing to note."""
    with case.original_head(), on_real_device(case.model, one):
        swap = _swap_on(case, one, None)
        try:
            case.model.to(other)
            _check_placement(swap, other, None, f"after a swap on {one} and a move to")
            _forward_and_backward(case, swap, other, None, f"after a swap on {one} and a move to")
        finally:
            swap.restore()
    return ""
