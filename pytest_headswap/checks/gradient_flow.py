"""`gradient_flow`: with the backbone frozen, the new head learns and nothing else does.

**Promise.** Every parameter outside the new head has `requires_grad=False`. A loss over the class outputs then gives
each tensor of the new head a gradient and reaches no other tensor. This holds for main heads in each mode in which
the model runs, and for auxiliary and distillation heads in at least one. With values, after `freeze_backbone` and a
backward pass in train mode, those gradients are finite and not all zero. No other parameter holds a gradient, not even
one from before the freeze.

**Evidence.** The autograd graph of abstract runs shows which tensors the loss reaches, not how large the gradients
are. With values, the gradients themselves. A tensor that the model uses without registering it, in a plain list, an
object, a closure or a global variable, counts as trained if the loss reaches it. The check cannot see a tensor that
forward reads through NumPy or in another process.

**A failure means** that fine-tuning would leave a head at its random initialization, or train a part of the backbone
that should stay frozen. In the first case, a `detach` or `no_grad` cuts the path from the head to the loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from pytest_headswap._text import join_first
from pytest_headswap.case.abstract_runs import mode_name
from pytest_headswap.case.case import Case
from pytest_headswap.case.class_outputs import class_output_labels, skip_without_class_output
from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.engine import place_of_tensor
from pytest_headswap.engine.pytorch import gradient_leaves


def gradient_flow(case: Case) -> str:
    """Trace the gradients of the class outputs in each mode that runs; return a note of what was not checked."""
    new = dict(case.swap.named_parameters())
    if not new:
        raise CheckFailed("the swap created no parameters: there is nothing to train")
    skip_without_class_output(case.swap.heads, case.spec.name)
    main = new.keys() & {name for head in case.swap.heads if head.role == "main" for name in head.tensors}
    reached: set[str] = set()
    notes = []
    for training in (False, True):
        if case.swapped_runs[training].error is not None:
            notes.append(f"{mode_name(training)} was not checked: the model does not run in it")
            continue
        in_mode = _reached_by_loss(case, new, training)
        cut = sorted(main - in_mode)
        if cut:
            raise CheckFailed(f"in {mode_name(training)}, no gradient of the class outputs reaches {', '.join(cut)}")
        reached |= in_mode
    unseen = {name for head in case.swap.heads if not head.outputs for name in head.tensors}
    never = sorted(new.keys() - reached - unseen)
    if never:
        raise CheckFailed(f"no gradient of the class outputs reaches {', '.join(never)} in any mode")
    if case.numeric:
        notes += _gradients(case, main)
    return "; ".join(notes)


def _reached_by_loss(case: Case, new: Iterable[str], training: bool) -> set[str]:
    """Return the names of the new parameters that the loss reaches; raise if it reaches anything else."""
    mode = case.swapped_runs[training]
    assert mode.run is not None
    leaves = _leaves(case, mode.outputs)
    if not leaves:
        raise CheckFailed(
            f"in {mode_name(training)}, no class output has a gradient: the head is cut off from the loss"
        )

    trainable = {name: mode.run.parameters[name] for name in new}
    allowed = {id(tensor) for tensor in trainable.values()}
    foreign = [leaf for leaf in leaves if id(leaf) not in allowed]
    names = {id(tensor): name for name, tensor in mode.run.parameters.items()}
    held = sorted(names[id(leaf)] for leaf in foreign if id(leaf) in names)
    if foreign and not held:
        held = _unregistered(case, foreign, mode.run.stand_ins, training)
    if held:
        raise CheckFailed(f"in {mode_name(training)}, the frozen model still trains {join_first(held)}")
    ids = {id(leaf) for leaf in leaves}
    return {name for name, tensor in trainable.items() if id(tensor) in ids}


def _unregistered(
    case: Case, leaves: Sequence[torch.Tensor], stand_ins: Iterable[torch.Tensor], training: bool
) -> list[str]:
    """Describe the leaves that the model holds without registering them.

    A leaf that forward creates is no part of the model, and no optimizer will see it. A second run creates another one.
    """
    ids = {id(tensor) for tensor in (*stand_ins, *_leaves(case, case.rerun(training).outputs))}
    held = []
    for leaf in leaves:
        if id(leaf) in ids:
            place = place_of_tensor(case.model, leaf, tuple(leaf.shape))
            where = f", held by {place}" if place else ""
            held.append(f"a tensor of shape {tuple(leaf.shape)} that is not a registered parameter{where}")
    return held


def _leaves(case: Case, outputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    labels = class_output_labels(case.swap.heads)
    return gradient_leaves([tensor for label, tensor in outputs.items() if label in labels and tensor.requires_grad])


def _gradients(case: Case, main: set[str]) -> list[str]:
    """Check the gradients of a real backward pass; raise if one is missing, not finite, zero or outside the head."""
    training = case.training
    if training.freeze_error is not None:
        return ["real gradients were not checked: the backbone cannot be frozen"]
    if training.foreign_gradients:
        raise CheckFailed(f"there are gradients outside the new head, in {join_first(training.foreign_gradients)}")
    missing = sorted(name for name in main if training.gradients.get(name) is None)
    if missing:
        raise CheckFailed(f"a real backward pass gives no gradient to {join_first(missing)}")
    if training.lost_gradients:
        raise CheckFailed(f"a later backward pass gives no gradient to {join_first(training.lost_gradients)}")
    real = {name: gradient for name, gradient in training.gradients.items() if gradient is not None}
    infinite = sorted(name for name, gradient in real.items() if not bool(gradient.isfinite().all()))
    if infinite:
        raise CheckFailed(f"gradients are not finite in {join_first(infinite)}")
    for head in case.swap.heads:
        # per head, not per tensor: the gradient of a bias in front of a batch norm is zero
        head_gradients = {name: real[name] for name in head.tensors if name in real}
        if head_gradients and not any(bool(gradient.any()) for gradient in head_gradients.values()):
            raise CheckFailed(f"all gradients are zero in {join_first(sorted(head_gradients))}")
    return []
