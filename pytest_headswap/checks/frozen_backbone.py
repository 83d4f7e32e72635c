"""`frozen_backbone`: `freeze_backbone` keeps its promise while the new head is trained.

**Promise.** The model is trained in train mode, with momentum and weight decay over all parameters. Afterwards:

- Every parameter and buffer outside the new head is bit for bit unchanged, even if forward writes to it.
- The features of a sample depend neither on chance nor on the rest of its batch, up to rounding.
- Later steps are like the first: forward runs, and its class outputs keep their shapes.
- The head has changed.
- `train()` leaves every module of the backbone in eval mode, `update_bn` leaves its statistics, and norms that
  `convert_sync_batchnorm` makes stay in eval mode too.

**Evidence.** Without values: in train mode the data flow of a frozen model has no write to the backbone. It has no
random numbers and no operation across samples before the head, as far as the data flow shows. With values: the training
itself, on a device if there is one, and otherwise on the CPU. The result names the device. Bits are compared on the
CPU. Features are compared with those of an eval-mode forward pass or, if those differ, with those of a second
training step. In that pass the sample comes first in another batch; in the training it comes last. Rows that meet by
another input, such as the nodes of a graph, are not taken for samples. Nor are rows that meet while those of the second
dimension stay separate, as in a model with the sequence first. Each step then has the same batch, and a note says so.

If forward leaves state behind that Python shows, such as a counter, there are up to three steps. The check cannot see
what changes after the third step, or in a model without values after the first.

**A failure means** that a "frozen" backbone drifts while the head is trained: batch norm statistics, spectral norm,
counters, or weights written through `.data`. Features computed once no longer match the model, or a validation
result depends on how samples are batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from pytest_headswap._text import join_first
from pytest_headswap.case.calls_after_freeze import effects_of_calls, still_trainable
from pytest_headswap.case.case import Case
from pytest_headswap.case.devices import case_on_device, devices_of
from pytest_headswap.case.finding import CheckFailed, describe_error
from pytest_headswap.case.training import TrainingRecord
from pytest_headswap.checks.gpu_lock import run_with_device_memory
from pytest_headswap.engine import Head, HeadSwapError
from pytest_headswap.engine.pytorch import accelerators


def frozen_evidence(case: Case) -> str:
    """Return the device on which the head was trained, or the evidence of the case."""
    return ", ".join(map(str, case.devices)) or case.evidence


def frozen_backbone(case: Case) -> str:
    """Freeze the backbone, train the head if there are values, and compare; return a note of what was not checked."""
    case.devices.clear()
    if not case.numeric:
        return _check_without_values(case)
    notes = []
    for device in devices_of(case)[:1]:
        case.devices.append(device)  # first, since a failure also rests on it
        try:
            return run_with_device_memory(device, partial(_check_on_device, case, device))
        except Exception as error:
            if not (lack := accelerators.shortcoming(error)):
                raise
            case.devices.clear()
            notes.append(f"{device} {lack}")
    return "; ".join(filter(None, (*notes, _check_training(case.training, case.swap.heads))))


def _check_on_device(case: Case, device: torch.device) -> str:
    try:
        with case_on_device(case, device) as there:
            training = there.training
    except Exception as error:
        if accelerators.shortcoming(error):
            raise
        raise CheckFailed(f"on {device}, training raises {describe_error(error)}") from error
    try:
        return _check_training(training, case.swap.heads)
    except CheckFailed as failure:
        raise CheckFailed(f"on {device}, {failure}") from failure.__cause__


def _check_without_values(case: Case) -> str:
    try:
        with case.frozen() as frozen:
            in_train_mode, moved = effects_of_calls(case.model, case.swap)
            _check_stays_in_eval(in_train_mode)
            _check_statistics(moved)
            trainable = still_trainable(case.model, case.swap)
            if trainable:
                raise CheckFailed(f"the frozen backbone still has trainable parameters: {join_first(trainable)}")
            return "; ".join(frozen.notes)
    except HeadSwapError as error:
        raise CheckFailed(f"the backbone cannot be frozen: {error.message}") from error


def _check_stays_in_eval(modules: Sequence[str]) -> None:
    if modules:
        raise CheckFailed(f"train() puts {join_first(modules)} of the frozen backbone into train mode")


def _check_statistics(moved: Sequence[str]) -> None:
    if moved:
        raise CheckFailed(f"the statistics of the frozen backbone do not stay: {join_first(moved)}")


def _check_training(training: TrainingRecord, heads: Sequence[Head]) -> str:
    if training.freeze_error is not None:
        raise CheckFailed(f"the backbone cannot be frozen: {training.freeze_error.message}") from training.freeze_error
    _check_stays_in_eval(training.in_train_mode)
    _check_statistics(training.moved)
    if training.changed:
        raise CheckFailed(f"training the head changed {join_first(training.changed)} of the frozen backbone")
    if training.non_finite:
        raise CheckFailed(f"while training the head, values are not finite in {join_first(training.non_finite)}")
    if training.batch_dependent:
        raise CheckFailed(
            "the features of a sample depend on chance, on earlier batches or on the other samples of its batch: "
            f"{join_first(training.batch_dependent)}"
        )
    if training.unlike_before:
        raise CheckFailed(f"training steps differ: {join_first(training.unlike_before)}")
    trained = [head for head in heads if head.class_outputs or not head.outputs]
    still = [head.path or "of the model itself" for head in trained if training.updated.isdisjoint(head.tensors)]
    # auxiliary heads may take no part in these steps: gradient_flow checks each mode
    if any(head.role == "main" and training.updated.isdisjoint(head.tensors) for head in trained):
        raise CheckFailed(f"training did not change the head {join_first(still)}")
    untrained = [] if trained else ["the head was not trained: the model returns no class output"]
    return "; ".join([*training.notes, *untrained])
