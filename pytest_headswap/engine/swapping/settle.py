"""Verify a swap, and find out by verification which stored numbers have to follow the class count."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from torch import nn

from pytest_headswap.engine.abstract.stand_ins import TENSOR_KINDS
from pytest_headswap.engine.detection.search import SearchResult
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.swapping.numbers_around import NumbersAround
from pytest_headswap.engine.swapping.plan import SwapPlan
from pytest_headswap.engine.swapping.stored_numbers import StoredNumber
from pytest_headswap.engine.swapping.transaction import Transaction
from pytest_headswap.engine.swapping.unused_tensors import left_behind
from pytest_headswap.engine.swapping.verify import LayerFault, verify_swap
from pytest_headswap.engine.swapping.written_count import line_with_count, place_of_error

_MAX_SINGLE = 24
_MAX_PAIRED = 6
_MAX_TRIED = 4


def verify_and_settle(
    plan: SwapPlan,
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
    model, result = plan.model, plan.search_result
    count = next(iter(around.counts.values()))
    verify = partial(verify_swap, model, plan.inputs, result, plan.selected, count, names, changes)
    if not any(around.counts.values()) or any(item.slot is not None for item in plan.selected):
        return verify() if always else []
    is_settled = set(around.near) <= set(around.named_like_counts())  # their names say enough: nothing to try out
    if not always and is_settled and not around.on_modules_without_parameters():
        return []
    try:
        notes = _settle(verify, around, changes)
        if always and (old := {count for count, new in around.counts.items() if count != new}):
            notes += left_behind(model, plan.inputs, result.tensor_kinds, old, names, around)
        unseen = [f"{plan.prefix}{item.name}" for item in plan.selected if not item.outputs]
        if unseen:
            notes.append(f"{', '.join(unseen)}: swapped, but not verified: no output of this forward shows it")
        return [*notes, *rename(lambda: _try(verify, (), around, changes, keep=True) is not None)] if always else notes
    except HeadSwapError as error:
        if not always:
            return []
        if isinstance(error, LayerFault):
            raise
        raise _with_cause(error, model, plan.inputs, result, set(around.widths) - {1}) from error.__cause__


def _settle(verify: Callable[[], list[str]], around: NumbersAround, changes: Transaction) -> list[str]:
    """Verify the swap. If it fails, change the fewest stored numbers with which it succeeds."""
    followed: tuple[StoredNumber, ...] = ()
    try:
        notes = verify()
    except HeadSwapError:
        if (found := _first_success(verify, around, changes)) is None:
            raise
        followed, notes = found
    done = {*followed, *around.named_like_counts()}
    for number in around.of_layers():
        if number not in done and _try(verify, (number,), around, changes, keep=True) is not None:
            done.add(number)
    left = [number for number in around.unexplained() if number not in done and number.value > 1]
    for number in left if around.stale_properties() else ():
        savepoint, stale = changes.savepoint(), around.stale_properties()
        if _try(verify, (number,), around, changes, keep=True) is not None:
            if len(around.stale_properties()) < len(stale):
                done.add(number)
            else:
                changes.undo_since(savepoint)
    left = [number for number in left if number not in done]
    doubtful = [n for n in left[:_MAX_TRIED] if _try(verify, (n,), around, changes, keep=False) is not None]
    doubtful += left[_MAX_TRIED:]
    notes = list(notes)
    if doubtful:
        names = ", ".join(f"{number.label} = {number.value}" for number in doubtful)
        notes.append(f"{names}: equal to the old class count and not changed. Set a new value if it counts classes")
    if stale := around.stale_properties():
        notes.append(f"{', '.join(stale)}: a property that still returns the old class count. Correct what it reads")
    if shared := [number for number in around.shared_counts() if number not in done]:
        names = ", ".join(f"{number.label} = {number.value}" for number in shared)
        notes.append(
            f"{names}: not changed, because a head that was not swapped has the same class count. Set a new value if "
            "it counts the classes of the new head"
        )
    return notes


def _first_success(
    verify: Callable[[], list[str]], around: NumbersAround, changes: Transaction
) -> tuple[tuple[StoredNumber, ...], list[str]] | None:
    numbers = [*around.near, *around.on_modules_without_parameters()]
    for trial in _trials(around, numbers):
        if _try(verify, trial, around, changes, keep=False) is None:
            continue
        while True:
            smaller = (tuple(n for n in trial if n is not dropped) for dropped in trial if len(trial) > 1)
            better = next((t for t in smaller if _try(verify, t, around, changes, keep=False) is not None), None)
            if better is None:
                break
            trial = better
        notes = _try(verify, trial, around, changes, keep=True)
        return None if notes is None else (trial, notes)
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
    around: NumbersAround,
    changes: Transaction,
    *,
    keep: bool,
) -> list[str] | None:
    """Change these numbers and verify. Return the notes, or None if verification fails. Undo, unless `keep`."""
    savepoint = changes.savepoint()
    notes: list[str] | None = None
    try:
        for number in numbers:
            number.set(around.widths[number.value], changes)
        notes = verify()
    except Exception:  # noqa: BLE001 - an object of the user may refuse a value in any way
        notes = None
    if notes is None or not keep:
        changes.undo_since(savepoint)
    return notes


def _with_cause(
    error: HeadSwapError, model: nn.Module, inputs: Inputs, original: SearchResult, old: set[int]
) -> HeadSwapError:
    """Return the error of a verification with the line of the model's code that causes it. The swap is in place."""
    line, layer = place_of_error(error, model) if error.__cause__ is not None else ("", "")
    written = bool(line) and any(re.search(rf"\b{number}\b", line.partition(": ")[2]) for number in old)
    for training, tensor_kind in original.tensor_kinds.items() if not written else ():
        kinds = TENSOR_KINDS[TENSOR_KINDS.index(tensor_kind) :]
        found = line_with_count(model, inputs, training, kinds, old)
        if found:
            line, written = found, True
            break
    message = error.message.removeprefix(f"[{error.reason}] ")
    if written:
        count = " or ".join(map(str, sorted(old)))
        advice = (
            f"The old class count ({count}) is written into forward at {line!r}. Use the size of the tensor there, "
            "such as x.shape[-1], or an attribute of the model"
        )
    elif line:
        advice = f"It was raised at {line!r}"
    elif layer:
        advice = f"It was raised in {layer}: choose a class count that the layer accepts, or pass new_head"
    else:
        advice = "Please report this architecture"
    return HeadSwapError(error.reason, f"{message}. {advice}. The model was restored", error.rejected)
