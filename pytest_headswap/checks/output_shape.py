"""`output_shape`: every class output has the new class count, and the outputs are otherwise unchanged.

**Promise.** In eval and in train mode the swapped model returns the same tensors as before. Their shapes differ only in
the class dimension of each head output, which has the new class count. This also holds for other class counts and batch
sizes: one of each is drawn, along with a mode. If the new class count is smaller than the old one, the drawn one is
larger, and the other way round. The seed depends only on the model and the check. If they fail, hypothesis searches for
the smallest failing example.

**Evidence.** Abstract runs of the model as built and of the swapped model. Shapes are read from what forward returns,
not from the engine's analysis. With values, a real forward pass in eval mode must return the same shapes and finite
numbers.

**A failure means** that fine-tuning would train on the wrong number of classes, or that the first loss would raise or
be NaN. An output still has the old width, or an output that does not hold classes has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from random import Random

import torch

from pytest_headswap.case.abstract_runs import ModeRun, mode_name, run_mode
from pytest_headswap.case.case import Case
from pytest_headswap.case.class_outputs import skip_without_class_output
from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.case.sample_inputs import batch_size, stable_seed, with_batch_size
from pytest_headswap.engine import HeadSwapError, Inputs, apply_plan, flatten_outputs

_MAX_CLASSES, _MAX_BATCH_SIZE = 1000, 3  # few batch sizes: each one fills the meta cache again

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each floating-point output, by its label."""

ClassDims = dict[str, tuple[int, int]]
"""The class dimension of each class output, and its class count before the swap, by label."""

DrawnSizes = tuple[int, int, bool]
"""A class count, a batch size, and whether to run in train mode."""


def output_shape(case: Case) -> str:
    """Compare the outputs before and after the swap; return a note of what could not be compared."""
    dims = _class_dims(case)
    compared: set[str] = set()
    notes = []
    for training in (False, True):
        before, after = case.original_runs[training], case.swapped_runs[training]
        if before.error is not None:
            notes.append(f"{mode_name(training)} was not compared: the model as built does not run in it")
            continue
        if after.error is not None:
            raise CheckFailed(
                f"the model ran in {mode_name(training)} before the swap but raises after it: {after.error.message}"
            )
        compared |= _compare(before.shapes, after.shapes, dims, case.num_classes, f"in {mode_name(training)}")
    missing = [label for label in dims if label not in compared]
    if missing:
        raise CheckFailed(f"the head reaches {', '.join(missing)}, but the model returns no such output in any mode")
    if case.numeric:
        _compare_real(case)
    if not _check_random_sizes(case, dims):
        notes.append("no other class count and batch size could be compared: the model as built does not run with them")
    skip_without_class_output(case.swap.heads, case.spec.name)  # all other shapes are the same
    return "; ".join(notes)


def _class_dims(case: Case) -> ClassDims:
    dims: ClassDims = {}
    for head in case.swap.old_heads:
        old = head.in_features if head.kind == "identity" else head.num_classes
        dims.update((label, (head.class_dim, old)) for label in head.class_outputs)
    if not any(head.outputs for head in case.swap.old_heads):
        raise CheckFailed("no head reaches an output, so no output follows the class count")
    return dims


def _compare(before: Shapes, after: Shapes, dims: ClassDims, new: int, where: str) -> set[str]:
    """Raise on the first difference that the swap does not explain; return the labels of the class outputs compared."""
    if list(before) != list(after):
        raise CheckFailed(f"{where}, the model returned {_names(before)} before the swap and {_names(after)} after it")
    compared = [label for label in before if label in dims]
    if dims and not compared:
        raise CheckFailed(f"{where}, no output follows the class count: the model returns {_names(before)}")
    for label, was in before.items():
        now = after[label]
        if label not in dims:
            if now != was:
                raise CheckFailed(f"{where}, {label} is not a class output, but its shape changed from {was} to {now}")
            continue
        dim, old = dims[label]
        if dim >= len(was) or was[dim] != old:
            raise CheckFailed(f"{where}, {label} had shape {was} before the swap, without {old} at dimension {dim}")
        expected = (*was[:dim], new, *was[dim + 1 :])
        if now != expected:
            raise CheckFailed(f"{where}, {label} has shape {now} after the swap, expected {expected} (it was {was})")
    return set(compared)


def _names(shapes: Shapes) -> str:
    return ", ".join(f"{label} {shape}" for label, shape in shapes.items()) or "no tensor"


def _compare_real(case: Case) -> None:
    """Run a real forward pass in eval mode and check for the shapes of the abstract run and for finite numbers."""
    try:
        outputs = dict(flatten_outputs(case.evaluation.outputs))
    except Exception as error:
        raise CheckFailed(f"with real values, forward raises {type(error).__name__}: {error}") from error
    for label, shape in case.swapped_runs[False].shapes.items():
        real = tuple(outputs[label].shape) if label in outputs else "nothing"
        if real != shape:
            raise CheckFailed(f"{label} should have shape {shape}, but with real values forward returns {real}")
    for label, tensor in outputs.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            count = int((~tensor.isfinite()).sum())
            raise CheckFailed(f"{count} of {tensor.numel()} values in {label} are not finite in eval mode")


def _check_random_sizes(case: Case, dims: ClassDims) -> bool:
    """Try another class count and batch size; return whether they could be compared.

    The model as built runs only if the swapped model's outputs are not as expected.
    """
    seed = stable_seed(case.zoo, case.spec.name, "output_shape")
    chance, present = Random(seed), batch_size(case.inputs)
    others = [size for size in range(1, _MAX_BATCH_SIZE + 1) if size != present]
    training = chance.random() < 0.5 and case.original_runs[True].error is None
    old = max(count for _, count in dims.values()) if dims else case.num_classes
    # on the other side of the old count: forward may cut what is larger, or pad what is smaller
    drawn = chance.randint(1, old) if case.num_classes > old else old + chance.randint(1, _MAX_CLASSES)
    drawn_sizes = (drawn, chance.choice(others), training)
    with case.original_head(), torch.no_grad():
        try:
            return _check_sizes(case, dims, *drawn_sizes)
        except CheckFailed:
            smallest = _shrink(case, dims, drawn_sizes, others, seed)
            try:
                return _check_sizes(case, dims, *smallest)
            except CheckFailed as failure:
                try:
                    apply_plan(case.plan, smallest[0]).restore()
                except HeadSwapError as error:  # the engine knows the line of forward
                    raise CheckFailed(f"{failure}. With {smallest[0]} classes, {error.message}") from None
                raise


def _shrink(case: Case, dims: ClassDims, drawn_sizes: DrawnSizes, others: Sequence[int], seed: int) -> DrawnSizes:
    """Return the smallest failing class count and batch size, with the mode, given a failing example."""
    import hypothesis
    from hypothesis import strategies

    def fails(tried: DrawnSizes) -> bool:
        try:
            _check_sizes(case, dims, *tried)
        except CheckFailed:
            return True
        return False

    settings = hypothesis.settings(
        max_examples=20, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    classes = strategies.integers(1, max(drawn_sizes[0], _MAX_CLASSES))
    every = strategies.tuples(classes, strategies.sampled_from(others), strategies.booleans())
    try:
        return hypothesis.find(every, fails, settings=settings, random=Random(seed))
    except hypothesis.errors.NoSuchExample:
        return drawn_sizes


def _check_sizes(case: Case, dims: ClassDims, num_classes: int, batch: int, training: bool) -> bool:
    """Compare one class count, batch size and mode; return whether the model as built runs on them."""
    training = training and batch > 1  # batch norm needs more than one sample in train mode
    before, present = case.original_runs[training], batch_size(case.inputs)
    if before.error is not None:
        return False
    inputs = with_batch_size(case.inputs, batch)
    after = _swapped_run(case, num_classes, inputs, training)
    where = f"with {num_classes} classes and a batch of {batch} in {mode_name(training)}"
    if after.error is None:
        expected = {
            label: (shape[0] * batch // present, *shape[1:]) if shape else shape  # a loss has no dimensions
            for label, shape in before.shapes.items()
        }
        with suppress(CheckFailed):
            _compare(expected, after.shapes, dims, num_classes, where)
            return True
    original = run_mode(case.model, inputs, training)
    if original.error is not None:
        return False
    if after.error is not None:
        raise CheckFailed(f"{where}, the swapped model raises: {after.error.message}")
    _compare(original.shapes, after.shapes, dims, num_classes, where)
    return True


def _swapped_run(case: Case, num_classes: int, inputs: Inputs, training: bool) -> ModeRun:
    swap = apply_plan(case.plan, num_classes, verify=False)
    try:
        return run_mode(case.model, inputs, training)
    finally:
        swap.restore()
