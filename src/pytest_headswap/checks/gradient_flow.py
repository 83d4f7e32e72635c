"""`gradient_flow`: with the backbone frozen, the new head learns and nothing else does.

**Promise.** When every parameter but those of the new head has `requires_grad=False`, a loss over the class
outputs gives each tensor of the new head a gradient, and reaches no other tensor. Main heads are held to it
in each mode in which the model runs; auxiliary and distillation heads in at least one.

**Evidence.** The autograd graph of abstract runs: which tensors it reaches, not how large the gradients are.

**A failure means** that fine-tuning would leave a head at its random start (its path to the loss is cut by a
`detach` or `no_grad`), or would train a part of the backbone that was meant to stay frozen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch

from pytest_headswap.checks.case import Case, mode_name
from pytest_headswap.checks.finding import CheckFailed
from pytest_headswap.engine._torch import gradient_leaves


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
        in_mode = _reached_by_loss(case, new, training)
        cut = sorted(main - in_mode)
        if cut:
            raise CheckFailed(f"in {mode_name(training)} no gradient of the class outputs reaches {', '.join(cut)}")
        reached |= in_mode
    never = sorted(new.keys() - reached)
    if never:
        raise CheckFailed(f"no gradient of the class outputs reaches {', '.join(never)} in any mode")
    return "; ".join(notes)


def _reached_by_loss(case: Case, new: Iterable[str], training: bool) -> set[str]:
    """Names of the new parameters that the loss reaches; raises when it reaches anything else."""
    mode = case.after[training]
    assert mode.run is not None
    labels = {label for head in case.swap.heads for label in head.outputs}
    with torch.enable_grad():
        loss = sum(tensor.sum() for label, tensor in mode.outputs.items() if label in labels and tensor.requires_grad)
    if not isinstance(loss, torch.Tensor):
        raise CheckFailed(f"in {mode_name(training)} no class output has a gradient: the head is cut off from the loss")

    trainable = {name: mode.run.parameters[name] for name in new}
    allowed = {id(tensor) for tensor in trainable.values()}
    # a leaf that forward itself makes is no part of the model, and no optimizer will ever see it
    held = {id(tensor) for tensor in mode.run.held}
    strangers = [leaf for leaf in gradient_leaves([loss]) if id(leaf) in held and id(leaf) not in allowed]
    if strangers:
        names = {id(tensor): name for name, tensor in mode.run.parameters.items()}
        unnamed = "a tensor of shape {} that is no parameter"
        listed = sorted(names.get(id(leaf), unnamed.format(tuple(leaf.shape))) for leaf in strangers)
        more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
        raise CheckFailed(f"in {mode_name(training)} the frozen model still trains {', '.join(listed[:5])}{more}")
    reachable = {name: tensor for name, tensor in trainable.items() if tensor.requires_grad}
    gradients = cast(
        "tuple[torch.Tensor | None, ...]",  # torch declares no None, also where unused tensors are allowed
        torch.autograd.grad(loss, list(reachable.values()), allow_unused=True, retain_graph=True),
    )
    return {name for name, gradient in zip(reachable, gradients, strict=True) if gradient is not None}
