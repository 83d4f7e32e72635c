"""`gradient_flow`: with the backbone frozen, the new head learns and nothing else does.

**Promise.** When every parameter but those of the new head has `requires_grad=False`, a loss over the class
outputs gives each tensor of the new head a gradient, and reaches no other tensor. Main heads are held to it
in each mode in which the model runs; auxiliary and distillation heads in at least one. With values: after
`freeze_backbone` and a backward pass in train mode those gradients are finite and not all zero, and no
other parameter holds one, not even from before it was frozen.

**Evidence.** The autograd graph of abstract runs: which tensors it reaches, not how large the gradients are.
With values, the gradients themselves.

**A failure means** that fine-tuning would leave a head at its random start (its path to the loss is cut by a
`detach` or `no_grad`), or would train a part of the backbone that was meant to stay frozen.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytest_headswap.case.abstract_runs import mode_name
from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.case.tensor_names import listed
from pytest_headswap.engine.pytorch.internals import gradient_leaves


def gradient_flow(case: Case) -> str:
    """Follow the gradients of the class outputs back in each mode that runs; returns what could not be looked at."""
    new = dict(case.swap.named_parameters())
    if not new:
        raise CheckFailed("the swap created no parameters: there is nothing to train")
    main = new.keys() & {name for head in case.swap.heads if head.role == "main" for name in head.tensors}
    reached: set[str] = set()
    notes = []
    for training in (False, True):
        if case.after[training].error is not None:
            notes.append(f"{mode_name(training)} was not checked: the model does not run in it")
            continue
        in_mode = _reached_by_loss(case, new, training)
        cut = sorted(main - in_mode)
        if cut:
            raise CheckFailed(f"in {mode_name(training)}, no gradient of the class outputs reaches {', '.join(cut)}")
        reached |= in_mode
    never = sorted(new.keys() - reached)
    if never:
        raise CheckFailed(f"no gradient of the class outputs reaches {', '.join(never)} in any mode")
    if case.numeric:
        notes += _gradients(case, main)
    return "; ".join(notes)


def _reached_by_loss(case: Case, new: Iterable[str], training: bool) -> set[str]:
    """Names of the new parameters that the loss reaches; raises when it reaches anything else."""
    mode = case.after[training]
    assert mode.run is not None
    labels = {label for head in case.swap.heads for label in head.outputs}
    outputs = [tensor for label, tensor in mode.outputs.items() if label in labels and tensor.requires_grad]
    if not outputs:
        raise CheckFailed(
            f"in {mode_name(training)}, no class output has a gradient: the head is cut off from the loss"
        )

    trainable = {name: mode.run.parameters[name] for name in new}
    allowed = {id(tensor) for tensor in trainable.values()}
    # a leaf that forward itself makes is no part of the model, and no optimizer will ever see it
    held = {id(tensor) for tensor in mode.run.held}
    leaves = gradient_leaves(outputs)
    strangers = [leaf for leaf in leaves if id(leaf) in held and id(leaf) not in allowed]
    if strangers:
        names = {id(tensor): name for name, tensor in mode.run.parameters.items()}
        unnamed = "a tensor of shape {} that is not a parameter"
        found = sorted(names.get(id(leaf), unnamed.format(tuple(leaf.shape))) for leaf in strangers)
        raise CheckFailed(f"in {mode_name(training)}, the frozen model still trains {listed(found)}")
    ids = {id(leaf) for leaf in leaves}
    return {name for name, tensor in trainable.items() if id(tensor) in ids}


def _gradients(case: Case, main: set[str]) -> list[str]:
    """The gradients of a real backward pass; raises for what is missing, not finite, zero or not the head's."""
    training = case.training
    if training.refused is not None:
        return ["real gradients were not checked: the backbone cannot be frozen"]
    if training.strangers:
        raise CheckFailed(f"there are gradients outside the new head, in {listed(training.strangers)}")
    missing = sorted(name for name in main if training.gradients.get(name) is None)
    if missing:
        raise CheckFailed(f"a real backward pass gives no gradient to {listed(missing)}")
    real = {name: gradient for name, gradient in training.gradients.items() if gradient is not None}
    infinite = sorted(name for name, gradient in real.items() if not bool(gradient.isfinite().all()))
    if infinite:
        raise CheckFailed(f"gradients are not finite in {listed(infinite)}")
    for head in case.swap.heads:
        # of a head and not of each tensor: the gradient of a bias in front of a batch norm is zero
        mine = {name: real[name] for name in head.tensors if name in real}
        if mine and not any(bool(gradient.any()) for gradient in mine.values()):
            raise CheckFailed(f"all gradients are zero in {listed(sorted(mine))}")
    return []
