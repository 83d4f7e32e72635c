"""`frozen_backbone`: `freeze_backbone` keeps its promise while the new head is trained.

**Promise.** After training in train mode, with momentum and weight decay over all parameters, every
parameter and buffer outside of the new head is bit for bit what it was, whoever tried to write to it; what
flows into the head for a sample is the same whatever else is in its batch (but for rounding); the head has
moved; and `train()` leaves every module of the backbone in eval mode.

**Evidence.** Structure: the data flow of a frozen model in train mode has no write to the backbone, no random
numbers and no statistics of the batch before the head. With values: the training itself, whose features are compared
with those of a forward pass in eval mode with another batch, or where they differ with those of a second step.

**A failure means** that a "frozen" backbone drifts while the head is trained (batch norm statistics, spectral
norm, counters, weights written through `.data`), so that features computed once are no longer those of the
model, or that a validation result depends on how samples were put into batches.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.case.tensor_names import listed
from pytest_headswap.case.training import Training, untouched_by_freeze, woken
from pytest_headswap.engine import Head, HeadSwapError


def frozen_backbone(case: Case) -> str:
    """Freeze, train where there are values, and compare; returns what could not be looked at."""
    if case.numeric:
        return _trained(case.training, case.swap.heads)
    try:
        with case.frozen() as frozen:
            _stays_asleep(woken(case.model, case.swap))
            trainable = untouched_by_freeze(case.model, case.swap)
            if trainable:
                raise CheckFailed(f"the frozen backbone still has trainable parameters: {listed(trainable)}")
            return "; ".join(frozen.notes)
    except HeadSwapError as error:
        raise CheckFailed(f"the backbone cannot be frozen: {error.message}") from error


def _stays_asleep(modules: Sequence[str]) -> None:
    if modules:
        raise CheckFailed(f"train() puts {listed(modules)} of the frozen backbone into train mode")


def _trained(training: Training, heads: Sequence[Head]) -> str:
    if training.refused is not None:
        raise CheckFailed(f"the backbone cannot be frozen: {training.refused.message}") from training.refused
    _stays_asleep(training.woken)
    if training.changed:
        raise CheckFailed(f"training the head changed {listed(training.changed)} of the frozen backbone")
    if training.mixed:
        raise CheckFailed(
            f"the features of a sample depend on the other samples of its batch: {listed(training.mixed)}"
        )
    if training.infinite:
        raise CheckFailed(f"while training the head, values are not finite in {listed(training.infinite)}")
    still = [head.path or "of the model itself" for head in heads if training.moved.isdisjoint(head.tensors)]
    # auxiliary heads may take no part in these steps: gradient_flow looks at each mode
    if any(head.role == "main" and training.moved.isdisjoint(head.tensors) for head in heads):
        raise CheckFailed(f"training did not change the head {listed(still)}")
    return "; ".join(training.notes)
