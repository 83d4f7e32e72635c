"""Verify a swap, and find out by verification which stored numbers have to follow the class count."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from pytest_headswap.engine.abstract.stand_ins import TENSOR_KINDS
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.source_lines import place_of_error
from pytest_headswap.engine.swapping.numbers_around import NumbersAround
from pytest_headswap.engine.swapping.options import HeadSwap
from pytest_headswap.engine.swapping.plan import SwapPlan
from pytest_headswap.engine.swapping.stored_numbers import StoredNumber
from pytest_headswap.engine.swapping.transaction import Transaction
from pytest_headswap.engine.swapping.unused_tensors import left_behind
from pytest_headswap.engine.swapping.verify import LayerFault, verify_swap
from pytest_headswap.engine.swapping.written_count import line_with_count, line_with_scalar, lines_with_literal

_MAX_SINGLE = 24
_MAX_PAIRED = 6
_MAX_TRIED = 4
_MAX_LINES = 3  # a small number is written in many lines that have nothing to do with classes
_MAX_SHOWN = 60  # characters of a text


def verify_and_settle(
    plan: SwapPlan,
    swaps: Sequence[HeadSwap],
    names: Sequence[str],
    around: NumbersAround,
    changes: Transaction,
    rename: Callable[[Callable[[], bool]], list[str]],
    *,
    always: bool,
) -> list[str]:
    """Verify a swap, and let stored numbers follow. Unless `always`, do so only for these numbers, and never fail.

    `names` are the names of the new tensors. `rename` updates collections that may hold class names. It takes a
    function that verifies the model again.

    Returns:
        Notes for the user.

    Raises:
        HeadSwapError: `verification_failed`.
    """
    result, selected = plan.search_result, plan.selected
    verify = partial(verify_swap, plan.model, plan.inputs, result, swaps, names, changes)
    if any(swap.new_count == 0 or swap.item.slot is not None for swap in swaps):
        try:
            return verify() if always else []
        except HeadSwapError as error:
            unchanged = "What follows the head does not pass on what it returns unchanged: change that part first"
            raise _with_advice(error, _about_new_head(swaps) or unchanged) from error.__cause__
    is_settled = set(around.near) <= set(around.named_like_counts())  # their names say enough: nothing to try out
    if not always and is_settled and not around.on_modules_without_parameters():
        return []
    try:
        notes = _settle(verify, around, changes)
        if not always:
            return notes
        old = {swap.old_count for swap in swaps if swap.old_count != swap.new_count}
        notes += left_behind(plan, old, names, around, changes)
        notes += (
            f"{reader} still has {size} entries, as many as the old head, and {name} selects or weighs them. If they "
            "are the classes of the head, replace that tensor as well"
            for name, size, reader in result.class_inputs
            if size in old and reader not in names
        )
        if (scalars := result.scalars & old) and (line := line_with_scalar(plan, scalars)):
            numbers = " and ".join(map(str, sorted(scalars)))
            notes.append(
                f"forward computes with {numbers} after the head, at {line!r}: equal to the old class count. If it "
                "counts classes, use the size of the tensor there, or an attribute of the model"
            )
        unseen = [f"{plan.prefix}{item.name}" for item in selected if not item.outputs]
        if unseen:
            notes.append(f"{', '.join(unseen)}: swapped, but not verified: no output of this forward shows it")
        return [*notes, *rename(lambda: _try(verify, (), changes, keep=True) is not None)]
    except HeadSwapError as error:
        if not always:
            return []
        if isinstance(error, LayerFault):
            raise
        if advice := _about_new_head(swaps):
            raise _with_advice(error, advice) from error.__cause__
        raise _with_cause(error, plan, set(around.widths) - {1}) from error.__cause__


def _settle(verify: Callable[[], list[str]], around: NumbersAround, changes: Transaction) -> list[str]:
    """Verify the swap. If it fails, change the fewest stored numbers with which it succeeds."""
    try:
        notes = verify()
    except HeadSwapError:
        if (found := _first_success(verify, around, changes)) is None:
            raise
        notes = found
    for number in around.of_layers():
        if number.is_unchanged:
            _try(verify, (number,), changes, keep=True)
    left = [number for number in around.unexplained() if number.is_unchanged and number.value > 1]
    for number in left if around.stale_properties() else ():
        savepoint, stale = changes.savepoint(), around.stale_properties()
        _try(verify, (number,) if number.is_unchanged else (), changes, keep=True)
        if len(around.stale_properties()) >= len(stale):
            changes.undo_since(savepoint)
    left = [number for number in left if number.is_unchanged]
    doubtful = [n for n in left[:_MAX_TRIED] if _try(verify, (n,), changes, keep=False) is not None]
    doubtful += left[_MAX_TRIED:]
    notes = list(notes)
    if doubtful:
        names = ", ".join(dict.fromkeys(f"{number.label} = {number.value}" for number in doubtful))
        notes.append(f"{names}: equal to the old class count and not changed. Set a new value if it counts classes")
    if around.texts:
        names = ", ".join(f"{place.label} = {_shortened(value)!r}" for place, value in around.texts)
        notes.append(f"{names}: states the old class count and was not changed. Set a new text if it counts classes")
    if stale := around.stale_properties():
        notes.append(f"{', '.join(stale)}: a property that still returns the old class count. Correct what it reads")
    if shared := around.shared_labels():
        notes.append(
            f"{', '.join(shared)}: not changed, because several heads had this class count and now differ. Set a new "
            "value if it belongs to a new head"
        )
    return notes


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _first_success(verify: Callable[[], list[str]], around: NumbersAround, changes: Transaction) -> list[str] | None:
    numbers = [*around.near, *around.on_modules_without_parameters()]
    for trial in _trials(around, numbers):
        if _try(verify, trial, changes, keep=False) is None:
            continue
        while True:
            smaller = (tuple(n for n in trial if n is not dropped) for dropped in trial if len(trial) > 1)
            better = next((t for t in smaller if _try(verify, t, changes, keep=False) is not None), None)
            if better is None:
                break
            trial = better
        return _try(verify, trial, changes, keep=True)
    return None


def _trials(around: NumbersAround, numbers: Sequence[StoredNumber]) -> Iterator[tuple[StoredNumber, ...]]:
    yield from ((number,) for number in numbers[:_MAX_SINGLE])
    groups = [tuple(n for n in around.near if n.path == path) for path in dict.fromkeys(n.path for n in around.near)]
    groups += [around.near, tuple(numbers)]
    yield from (group for group in dict.fromkeys(groups) if len(group) > 1)
    yield from itertools.combinations(numbers[:_MAX_PAIRED], 2)


def _try(
    verify: Callable[[], list[str]],
    numbers: Sequence[StoredNumber],
    changes: Transaction,
    *,
    keep: bool,
) -> list[str] | None:
    """Change these numbers and verify. Return the notes, or None if verification fails. Undo, unless `keep`."""
    savepoint = changes.savepoint()
    notes: list[str] | None = None
    try:
        for number in numbers:
            number.set(number.new, changes)
        notes = verify()
    except Exception:  # noqa: BLE001 - an object of the user may refuse a value in any way
        notes = None
    if notes is None or not keep:
        changes.undo_since(savepoint)
    return notes


def _with_cause(error: HeadSwapError, plan: SwapPlan, old: set[int]) -> HeadSwapError:
    """Return the error of a verification with the line of the model's code that causes it. The swap is in place."""
    model, inputs, original = plan.model, plan.inputs, plan.search_result
    line, layer = place_of_error(error, model) if error.__cause__ is not None else ("", "")
    written, needs_count = _has_number(line, old), ""
    for training, tensor_kind in original.tensor_kinds.items() if not written else ():
        kinds = TENSOR_KINDS[TENSOR_KINDS.index(tensor_kind) :]
        found, needs_count = line_with_count(model, inputs, training, kinds, old)
        if found:
            line, written = found, True
            break
    count = " or ".join(map(str, sorted(old)))
    if needs_count:
        advice = (
            f"The {needs_count} called at {line!r} needs the old class count ({count}). Give the model a head of its "
            "own after that layer, such as an nn.Linear"
        )
    elif written:
        verb = "written into forward" if _has_number(line, old) else "used by forward"
        advice = (
            f"The old class count ({count}) is {verb} at {line!r}. Use the size of the tensor there, such as "
            "x.shape[-1], or a number in an attribute of the model"
        )
    elif line:
        advice = (
            f"It was raised at {line!r}, which does not accept the new class count, or what the model stored in an "
            f"earlier forward{_other_causes(plan, old)}"
        )
    elif layer:
        advice = f"It was raised in {layer}: choose a class count that the layer accepts, or pass new_head"
    elif (lines := lines_with_literal(model, old)) and len(lines) <= _MAX_LINES:
        advice = (
            f"The number {count}, the old class count, is written at {' and '.join(map(repr, lines))}. If it counts "
            "classes, use the size of the tensor there, such as x.shape[-1], or a number in an attribute of the model"
        )
    else:
        advice = (
            f"forward does not follow the new class count: look for the old one ({count}) in it, and use the size of "
            "the tensor there, such as x.shape[-1]. If it is nowhere written, please report this architecture"
        )
    return _with_advice(error, advice)


def _other_causes(plan: SwapPlan, old: set[int]) -> str:
    """Return sentences about inputs of the old class count, and about heads that were not swapped."""
    inputs, text = plan.inputs, ""
    of_size = [
        f"{name!r} {tuple(tensor.shape)}"
        for name, tensor in zip(inputs.tensor_names(plan.model.forward), inputs.tensors(), strict=False)
        if not old.isdisjoint(tensor.shape[1:])
    ]
    if of_size:
        text += (
            f". A dimension of the input {', '.join(of_size)} equals the old class count. If it counts classes, "
            "leave the input out of example_inputs, or combine it with the logits outside the model"
        )
    selected = [item.name for item in plan.selected]
    found = plan.search_result.detected
    others = [item.name for item in found if item.name not in selected and item.head.num_classes in old]
    if others:
        paths = [plan.prefix + path for path in (*selected, *others)]
        text += f". If the heads share a layer, swap them together with head={paths}"
    return text


def _about_new_head(swaps: Sequence[HeadSwap]) -> str:
    replaced = [swap for swap in swaps if swap.options.new_head is not None]
    features = " or ".join(sorted({str(swap.item.head.in_features) for swap in replaced}))
    counts = " or ".join(dict.fromkeys(str(swap.new_count) for swap in replaced))
    return f"new_head must take {features} features and return {counts} values" if replaced else ""


def _with_advice(error: HeadSwapError, advice: str) -> HeadSwapError:
    message = error.message.removeprefix(f"[{error.reason}] ")
    return HeadSwapError(error.reason, f"{message}. {advice}. The model was restored", error.rejected)


def _has_number(line: str, numbers: set[int]) -> bool:
    """Return whether the code of a line has one of these numbers written in it."""
    return any(re.search(rf"\b{number}\b", line.partition(": ")[2]) for number in numbers)
