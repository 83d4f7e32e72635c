"""`gradient_flow`: with the backbone frozen, the new head learns and nothing else does.

**Promise.** When every parameter but those of the new head has `requires_grad=False`, a loss over the class
outputs gives each tensor of the new head a gradient, and reaches no other tensor. Main heads are held to it
in each mode in which the model runs; auxiliary and distillation heads in at least one.

**Evidence.** The autograd graph of abstract runs: which tensors it reaches, not how large the gradients are.

**A failure means** that fine-tuning would leave a head at its random start (its path to the loss is cut by a
`detach` or `no_grad`), or would train a part of the backbone that was meant to stay frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pytest_headswap.checks.case import Case, mode_name
from pytest_headswap.checks.finding import CheckFailed
from pytest_headswap.engine import abstract_run
from pytest_headswap.engine.outputs import flatten_outputs


def gradient_flow(case: Case) -> str:
    """Follow the gradients of the class outputs back in each mode that runs; returns what could not be looked at."""
    new = dict(case.swap.named_parameters())
    if not new:
        raise CheckFailed("the swap made no new parameters: there is nothing to train")
    main = new.keys() & {name for head in case.swap.heads if head.role == "main" for name in head.tensors}
    reached: set[str] = set()
    notes = []
    for training in (False, True):
        if case.after[training].error is not None:
            notes.append(f"{mode_name(training)} was not looked at, the model does not run in it")
            continue
        with _only_trainable(case.model, new.values()):
            in_mode = _reached_by_loss(case, new.keys(), training)
        cut = sorted(main - in_mode)
        if cut:
            raise CheckFailed(f"in {mode_name(training)} no gradient of the class outputs reaches {', '.join(cut)}")
        reached |= in_mode
    never = sorted(new.keys() - reached)
    if never:
        raise CheckFailed(f"no gradient of the class outputs reaches {', '.join(never)} in any mode")
    return "; ".join(notes)


@contextmanager
def _only_trainable(model: nn.Module, trainable: Iterable[nn.Parameter]) -> Iterator[None]:
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


def _reached_by_loss(case: Case, new: Iterable[str], training: bool) -> set[str]:
    """Names of the new parameters that the loss reaches; raises when it reaches anything else."""
    with torch.enable_grad():
        run = abstract_run(case.model, case.inputs, training=training)
        labels = {label for head in case.swap.heads for label in head.outputs}
        outputs = [tensor for label, tensor in flatten_outputs(run.outputs) if label in labels]
        loss = sum(output.sum() for output in outputs if output.requires_grad)
    if not isinstance(loss, torch.Tensor):
        raise CheckFailed(f"in {mode_name(training)} no class output has a gradient: the head is cut off from the loss")

    expected = {name: run.parameters[name] for name in new}
    leaves = _leaves(loss)
    allowed = {id(tensor) for tensor in expected.values()}
    strangers = [leaf for leaf in leaves if id(leaf) not in allowed]
    if strangers:
        names = {id(tensor): name for name, tensor in run.parameters.items()}
        described = sorted(
            names.get(id(leaf), f"a tensor of shape {tuple(leaf.shape)} that is no parameter") for leaf in strangers
        )
        raise CheckFailed(
            f"in {mode_name(training)} the frozen model still trains {', '.join(described[:5])}"
            + (f" and {len(described) - 5} more" if len(described) > 5 else "")
        )
    reachable = {name: tensor for name, tensor in expected.items() if tensor.requires_grad}
    gradients: tuple[torch.Tensor | None, ...]
    gradients = torch.autograd.grad(loss, list(reachable.values()), allow_unused=True)
    return {name for name, gradient in zip(reachable, gradients, strict=True) if gradient is not None}


def _leaves(loss: torch.Tensor) -> list[torch.Tensor]:
    """The tensors at the ends of the autograd graph: what `loss.backward()` would give a gradient."""
    leaves = []
    seen = set()
    pending = [loss.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # only the nodes that accumulate gradients have it
            leaves.append(node.variable)
        pending.extend(following for following, _ in node.next_functions)
    return leaves
