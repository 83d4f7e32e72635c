"""`grad_checkpointing`: the swapped model trains alike with gradient checkpointing.

**Promise.** With gradient checkpointing turned on as the library does it, the swapped model returns the same logits in
train mode. A loss over the logits gives the same gradients to the new head, and to the biases and norms of the
backbone, so that the loss flows through every block. Parts of the model are in fact computed again in backward.

**Evidence.** Two real training steps from the same random state, one of them with checkpointing; without values the
check is skipped (`no_values`). The zoo says how to turn checkpointing on (`ModelSpec.enable_grad_checkpointing`);
without that, or if the model as built offers no checkpointing, the check is skipped (`no_grad_checkpointing`). If the
check fails, it runs on the model as built. If that fails too, the result is a skip (`fails_before_swap`). The check
cannot see how much memory is saved, and does not compare the gradients of large weights.

**A failure means** that fine-tuning with gradient checkpointing raises or learns something else, although the model
worked before the swap: a head that keeps state from call to call, writes to its input, or lost a switch of the old one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pytest_headswap.case.case import Case
from pytest_headswap.case.class_outputs import class_output_labels, skip_without_class_output
from pytest_headswap.case.finding import CheckFailed, CheckSkipped
from pytest_headswap.case.real_runs import (
    RealRun,
    check_and_blame,
    describe_exception,
    fail_if_different,
    forward_and_backward,
    head_parameters,
    undone,
)
from pytest_headswap.engine import Head
from pytest_headswap.engine.pytorch import freeze_all_but, parameters


def grad_checkpointing(case: Case) -> str:
    """Take a training step with and without gradient checkpointing, and compare outputs and gradients."""
    if case.spec.enable_grad_checkpointing is None:
        raise CheckSkipped(
            "no_grad_checkpointing",
            f"the zoo {case.zoo} does not say how to turn gradient checkpointing on for {case.spec.name}: pass "
            "ModelSpec(enable_grad_checkpointing=...)",
        )
    skip_without_class_output(case.swap.heads, case.spec.name)
    return check_and_blame(case, partial(_check, case), "does not train with gradient checkpointing")


def _check(case: Case, heads: Sequence[Head]) -> str:
    expected, calls = _step(case, heads, enable=False)
    try:
        found, more_calls = _step(case, heads, enable=True)
    except (CheckFailed, CheckSkipped):
        raise
    except Exception as error:
        raise CheckFailed(f"with gradient checkpointing, {describe_exception(error, case)}") from error
    labels = class_output_labels(heads)  # a library may turn other outputs off, such as a cache
    expected, found = (
        RealRun({label: run.outputs[label] for label in labels & run.outputs.keys()}, run.gradients)
        for run in (expected, found)
    )
    fail_if_different(expected, found, "the model with gradient checkpointing")
    if more_calls == calls:
        raise CheckFailed("turning gradient checkpointing on has no effect: backward computes nothing again")
    return "" if case.can_train else "the step was in eval mode: the model does not run in train mode"


def _step(case: Case, heads: Sequence[Head], *, enable: bool) -> tuple[RealRun, int]:
    """Return the outputs, the gradients and the number of modules called."""
    with undone(case, heads), _calls_counted() as calls:
        if enable:
            _enable(case, heads)
        # gradients of biases and norms cost little memory, and need the whole backward pass
        small = [value for value in parameters(case.model) if value.dim() < 2]
        freeze_all_but(case.model, [*head_parameters(case, heads).values(), *small])
        return forward_and_backward(case, heads, training=case.can_train), len(calls)


def _enable(case: Case, heads: Sequence[Head]) -> None:
    assert case.spec.enable_grad_checkpointing is not None
    try:
        case.spec.enable_grad_checkpointing(case.model)
    except Exception as error:
        what = describe_exception(error, case)
        if heads is case.swap.old_heads:
            message = f"{case.spec.name} offers no gradient checkpointing: {what}"
            raise CheckSkipped("no_grad_checkpointing", message) from error
        raise CheckFailed(f"turning gradient checkpointing on raises {what}") from error


@contextmanager
def _calls_counted() -> Iterator[list[type]]:
    """Yield a list of the types of all modules called in the block."""
    calls: list[type] = []

    def count(module: nn.Module, _args: object) -> None:
        calls.append(type(module))

    handle = register_module_forward_pre_hook(count)
    try:
        yield calls
    finally:
        handle.remove()
