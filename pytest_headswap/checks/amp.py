"""`amp`: the new head trains in mixed precision.

**Promise.** Under `torch.autocast` in bfloat16, the swapped model runs in eval mode and, if the model as built does,
in train mode. Its outputs have the same shapes as without autocast, and they are finite wherever those are. Its logits
differ from those without autocast by at most 20 % of their norm. With all but the new head frozen, the gradients of a
loss over the logits are finite. They reach the same parameters as without autocast, and all parameters keep their
dtypes.

**Evidence.** Real forward passes and a backward pass; without values the check is skipped (`no_values`). If the check
fails, it runs on the model as built. If that fails too, the result is a skip (`fails_before_swap`). The check cannot
see float16, whose range needs a gradient scaler. A model on the CPU does not show the operations that autocast treats
otherwise on a GPU.

**A failure means** that fine-tuning with `torch.autocast` raises, diverges, or leaves the head untrained, although the
model worked before the swap: a head that casts its input, computes in a fixed dtype, or is called without gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from pytest_headswap._text import join_first
from pytest_headswap.case.abstract_runs import mode_name
from pytest_headswap.case.case import Case
from pytest_headswap.case.class_outputs import class_output_labels, skip_without_class_output
from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.case.real_runs import (
    RealRun,
    check_and_blame,
    describe_exception,
    forward_and_backward,
    head_parameters,
    undone,
)
from pytest_headswap.engine import Head
from pytest_headswap.engine.pytorch import freeze_all_but, named_parameters, parameters

_MAX_DIFFERENCE = 0.2  # of the norm of the logits


def amp(case: Case) -> str:
    """Train the head for one step under autocast, and compare with the step in full precision."""
    skip_without_class_output(case.swap.heads, case.spec.name)
    return check_and_blame(case, partial(_check, case), "does not train under autocast")


def _check(case: Case, heads: Sequence[Head]) -> str:
    device = next((value.device.type for value in parameters(case.model)), "cpu")
    for training in (False, True) if case.can_train else (False,):
        where = f"under autocast in {mode_name(training)}"
        expected = _run(case, heads, training)
        try:
            with torch.autocast(device, torch.bfloat16):
                found = _run(case, heads, training)
        except CheckFailed:
            raise
        except Exception as error:
            raise CheckFailed(f"{where}, the model raises {describe_exception(error, case)}") from error
        _compare_outputs(expected.outputs, found.outputs, heads, where, near=not training)
        _check_gradients(expected, found, where)
    return "" if case.can_train else "train mode was not checked: the model does not run in it"


def _run(case: Case, heads: Sequence[Head], training: bool) -> RealRun:
    with undone(case, heads):
        own = head_parameters(case, heads)
        freeze_all_but(case.model, own.values())
        dtypes = {name: value.dtype for name, value in named_parameters(case.model)}
        run = forward_and_backward(case, heads, training=training)
        changed = [n for n, value in named_parameters(case.model) if value.dtype != dtypes.get(n, value.dtype)]
        if changed:
            raise CheckFailed(f"under autocast, forward changes the dtype of {join_first(changed)}")
        wrong = {n: value.grad for n, value in named_parameters(case.model) if n not in own and value.grad is not None}
        return RealRun(run.outputs, {**run.gradients, **wrong})


def _compare_outputs(
    expected: Mapping[str, torch.Tensor],
    found: Mapping[str, torch.Tensor],
    heads: Sequence[Head],
    where: str,
    near: bool,
) -> None:
    labels = class_output_labels(heads)
    for label, one in expected.items():
        if label not in found:
            raise CheckFailed(f"{where}, the model does not return {label}")
        other = found[label]
        if one.shape != other.shape:
            raise CheckFailed(f"{where}, {label} has shape {tuple(other.shape)}, not {tuple(one.shape)}")
        if bool((one.isfinite() & ~other.isfinite()).any()):
            raise CheckFailed(f"{where}, values are not finite in {label}")
        if near and label in labels and (difference := _difference(one, other)) > _MAX_DIFFERENCE:
            raise CheckFailed(
                f"{where}, {label} differs by {difference:.0%} of its norm from the value in full precision "
                f"({_MAX_DIFFERENCE:.0%} are allowed)"
            )


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    finite = one.isfinite()
    one, other = one[finite].double(), other[finite].double()
    norm = float(one.norm())
    return float((one - other).norm()) / norm if norm else 0.0


def _check_gradients(expected: RealRun, found: RealRun, where: str) -> None:
    pairs = [(name, was, found.gradients.get(name)) for name, was in expected.gradients.items()]
    lost = [name for name, was, now in pairs if was is not None and now is None]
    if lost:
        raise CheckFailed(f"{where}, no gradient reaches {join_first(lost)}")
    new = [n for n, now in found.gradients.items() if now is not None and expected.gradients.get(n) is None]
    if new:
        raise CheckFailed(f"{where}, the loss also trains {join_first(new)}, outside the head")
    not_finite = [n for n, was, now in pairs if was is not None and now is not None and not bool(now.isfinite().all())]
    if not_finite:
        raise CheckFailed(f"{where}, gradients are not finite in {join_first(not_finite)}")
