"""`output_shape`: every class output has the new class count, and nothing else about the outputs changed.

**Promise.** In eval and in train mode the swapped model returns the same tensors as before, with the same
shapes, except that the class dimension of each output of a head went from the old to the new class count.

**Evidence.** Shapes only: abstract runs of the model as the zoo built it and of the swapped model. The
outputs before the swap come from a run of their own, not from what the engine believes about the model.

**A failure means** that fine-tuning would train on the wrong number of classes, or that the loss would
raise on the first batch: some output still has the old width, or one that is no class output changed.
"""

from __future__ import annotations

from pytest_headswap.checks.case import Case, ModeRun, mode_name
from pytest_headswap.checks.finding import CheckFailed

ClassDims = dict[str, tuple[int, int]]
"""For the label of each class output: its class dimension and the class count before the swap."""


def output_shape(case: Case) -> str:
    """Compare the outputs before and after the swap; returns what could not be compared."""
    dims = _class_dims(case)
    compared: set[str] = set()
    notes = []
    for training in (False, True):
        before, after = case.before[training], case.after[training]
        if before.error is not None:
            notes.append(f"{mode_name(training)} was not compared, the model as built does not run in it")
            continue
        if after.error is not None:
            raise CheckFailed(f"{mode_name(training)} ran before the swap and raises after it: {after.error}")
        compared |= _compare(before, after, dims, case.num_classes, mode_name(training))
    unseen = [label for label in dims if label not in compared]
    if unseen:
        raise CheckFailed(f"the head reaches {', '.join(unseen)}, but the model returns no such output in any mode")
    return "; ".join(notes)


def _class_dims(case: Case) -> ClassDims:
    dims: ClassDims = {}
    for head in case.swap.old_heads:
        old = head.in_features if head.kind == "identity" else head.num_classes
        dims.update((label, (head.class_dim, old)) for label in head.outputs)
    if not dims:
        raise CheckFailed("no head reaches an output, so no output follows the class count")
    return dims


def _compare(before: ModeRun, after: ModeRun, dims: ClassDims, new: int, mode: str) -> set[str]:
    """Raise on the first difference that the swap does not explain; returns the class outputs that were seen."""
    if list(before.shapes) != list(after.shapes):
        raise CheckFailed(f"in {mode} the model returned {_names(before)} before the swap and {_names(after)} after it")
    seen = [label for label in before.shapes if label in dims]
    if not seen:
        raise CheckFailed(f"in {mode} no output follows the class count: the model returns {_names(before)}")
    for label, was in before.shapes.items():
        now = after.shapes[label]
        if label not in dims:
            if now != was:
                raise CheckFailed(f"in {mode} {label} is no class output, and its shape went from {was} to {now}")
            continue
        dim, old = dims[label]
        if dim >= len(was) or was[dim] != old:
            raise CheckFailed(f"in {mode} {label} had shape {was} before the swap, without {old} at dimension {dim}")
        expected = (*was[:dim], new, *was[dim + 1 :])
        if now != expected:
            raise CheckFailed(f"in {mode} {label} has shape {now} after the swap, expected {expected} (it was {was})")
    return set(seen)


def _names(run: ModeRun) -> str:
    return ", ".join(f"{label} {shape}" for label, shape in run.shapes.items()) or "no tensor"
