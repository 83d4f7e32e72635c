"""Name the class-sized tensors that no output depends on: weights of a loss, a copy of the head, another exit."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn

from pytest_headswap.engine.pytorch.modules import named_buffers, named_parameters, owner_path

_MAX_NAMED = 6


def unused_note(model: nn.Module, used: Collection[str], counts: Collection[int], new: Collection[str]) -> str | None:
    """Return a note on the tensors that have a dimension of an old class count and that no output depends on, or None.

    `used` are the names of the tensors that some output depends on, and `new` those of the new head.
    """
    sizes = {count for count in counts if count > 1}
    unused = {
        name: tensor
        for name, tensor in (*named_parameters(model), *named_buffers(model))
        if name not in new and name not in used and not sizes.isdisjoint(tensor.shape)
    }
    if not unused:
        return None
    more = f" and {len(unused) - _MAX_NAMED} more" if len(unused) > _MAX_NAMED else ""
    return (
        f"{', '.join([*unused][:_MAX_NAMED])}{more}: a dimension equals the old class count, and no output of this "
        "forward depends on the tensor. It was not changed. Set a new one if it has an entry for each class"
        f"{_advice(unused)}"
    )


def _advice(unused: Mapping[str, torch.Tensor]) -> str:
    """Return how to swap a head that this forward did not take, if one of the tensors may be its weight."""
    weight = next((name for name, x in unused.items() if isinstance(x, nn.Parameter) and x.dim() > 1), None)
    if weight is None:
        return ""
    return (
        ". If it is the head of another branch, call swap_head again with the inputs or settings that take the branch, "
        f"and with head={owner_path(weight) or weight!r}"
    )
