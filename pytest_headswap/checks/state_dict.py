"""`state_dict`: the backbone is unchanged and loads anywhere, and the head can be saved separately.

**Promise.** The swap leaves every key and tensor of the backbone in `state_dict()` unchanged: the tensors are the same
objects. The backbone's entries load into the unswapped model, and only the keys of the head are missing.
`swap.state_dict()` holds only the head. Saved and loaded, it restores the same head in this model and in a freshly
swapped one.

**Evidence.** Keys, identities and shapes; with values, every bit. What hooks of the model do to the state_dict of the
model as built does not count, and the check cannot see values that a hook makes anew on each call.

**A failure means** that a pretrained checkpoint no longer loads after the swap, or that the swap changed the
backbone. Or a fine-tuned head cannot be saved without the gigabytes of its backbone.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping

import torch
from torch import nn

from pytest_headswap._text import join_first
from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.case.tensor_names import head_names, names_by_identity
from pytest_headswap.case.value_snapshot import bitwise_equal, named_tensors
from pytest_headswap.engine import HeadSwapError, apply_plan


def state_dict(case: Case) -> str:
    """Compare the state before and after the swap, then load the backbone and the head elsewhere."""
    head = case.swap.state_dict()
    if not head:
        raise CheckFailed("the swap created no tensors: there is no head to save")
    after = _state(case.model)
    new = head_names(case.swap)
    with case.original_head():
        before = _state(case.model)
        old_head = [before[name] for old in case.swap.old_heads for name in old.tensors if name in before]
        replaced = names_by_identity(before, old_head) | (new & before.keys())
        _check_backbone_unchanged(case, before, after, replaced, new)
        _check_backbone_loads(case, _without(after, new), replaced)
    if case.values_changed_by_swap:
        raise CheckFailed(f"the swap changed the values of {join_first(case.values_changed_by_swap)}")
    _check_head_state(case, head)
    return ""


def _state(model: nn.Module) -> dict[str, object]:
    """Return the state_dict, with the model's own tensors where a hook replaces them, such as by clones."""
    state: dict[str, object] = model.state_dict(keep_vars=True)
    state.update((name, tensor) for name, tensor in named_tensors(model) if name in state)
    return state


def _check_backbone_unchanged(
    case: Case, before: Mapping[str, object], after: Mapping[str, object], old_head: set[str], new_head: set[str]
) -> None:
    """Compare the entries outside the heads. The case holds the unswapped model at this point."""
    missing = [key for key in before if key not in after and key not in old_head]
    if missing:
        raise CheckFailed(f"the swap removed {join_first(missing)} from the state_dict")
    added = [key for key in after if key not in before and key not in new_head]
    if added:
        raise CheckFailed(f"the swap added {join_first(added)} to the state_dict, outside the head")
    other = [
        key
        for key, value in before.items()
        if key in after and key not in new_head and isinstance(value, torch.Tensor) and after[key] is not value
    ]
    if other:
        again = _state(case.model)  # what `state_dict()` makes anew on each call says nothing of the swap
        other = [key for key in other if again.get(key) is before[key]]
    if other:
        raise CheckFailed(f"the swap replaced the tensors {join_first(other)}, outside the head")


def _without(state: Mapping[str, object], names: set[str]) -> Mapping[str, object]:
    """Return a state_dict without the given names. A copy keeps the module versions in its metadata."""
    rest = copy.copy(state)
    assert isinstance(rest, dict)
    for name in names & rest.keys():
        del rest[name]
    return rest


def _check_backbone_loads(case: Case, backbone: Mapping[str, object], replaced: set[str]) -> None:
    """Load the backbone into the unswapped model, which is what the case holds at this point."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that loading on meta copies nothing, as intended
            result = case.model.load_state_dict(backbone, strict=False)
            missing = [key for key in result.missing_keys if key not in replaced]
            unexpected = result.unexpected_keys
            if missing or unexpected:  # what a hook drops or adds in the model as built, too, says nothing of the swap
                own = case.model.load_state_dict(case.model.state_dict(), strict=False)
                missing = [key for key in missing if key not in own.missing_keys]
                unexpected = [key for key in unexpected if key not in own.unexpected_keys]
    except RuntimeError as error:  # a shape that does not fit
        raise CheckFailed(f"the backbone does not load into an unswapped model: {error}") from error
    if unexpected:
        raise CheckFailed(f"an unswapped model does not accept {join_first(unexpected)} of the backbone")
    if missing:
        raise CheckFailed(f"the backbone lacks {join_first(missing)}, which an unswapped model needs")


def _check_head_state(case: Case, head: dict[str, torch.Tensor]) -> None:
    oversized = sorted(
        name for name, tensor in head.items() if tensor.untyped_storage().nbytes() > 2 * tensor.nbytes + 1024
    )
    if oversized:
        raise CheckFailed(
            f"saving the head would save more than the head: {join_first(oversized)} are parts of larger tensors"
        )
    file = io.BytesIO()
    torch.save(head, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    original = {name: tensor.clone() for name, tensor in head.items()}
    try:
        for tensor in head.values():
            tensor.zero_()
        _check_head_loads(case, saved, original)
    finally:
        case.swap.load_state_dict(original)
    with case.original_head():
        fresh = apply_plan(case.plan, case.num_classes, verify=False)
        try:
            fresh.load_state_dict(saved)
            different = _different(fresh.state_dict(), original)
        except HeadSwapError as error:
            raise CheckFailed(f"the head does not load into a freshly swapped model: {error.message}") from error
        finally:
            fresh.restore()
        if different:
            raise CheckFailed(f"loading the head into a freshly swapped model changed {join_first(different)}")


def _check_head_loads(case: Case, saved: dict[str, torch.Tensor], original: dict[str, torch.Tensor]) -> None:
    try:
        case.swap.load_state_dict(saved)
    except HeadSwapError as error:
        raise CheckFailed(f"the saved head does not load into this model: {error.message}") from error
    different = _different(case.swap.state_dict(), original)
    if different:
        raise CheckFailed(f"loading the head into this model changed {join_first(different)}")


def _different(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> list[str]:
    names = [name for name in one if name not in other or one[name].shape != other[name].shape]
    return names or [n for n, tensor in one.items() if not tensor.is_meta and not bitwise_equal(tensor, other[n])]
