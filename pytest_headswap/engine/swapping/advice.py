"""Say what users often overlook about a swap that did what they asked for, with the argument that changes it."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_headswap._text import join_first
from pytest_headswap.engine.swapping.options import HeadSwap


def advice(swaps: Sequence[HeadSwap]) -> list[str]:
    """Return notes about activations that stay after a head, and about heads that were drawn again."""
    notes = []
    for activation in ("softmax", "sigmoid"):
        names = [swap.item.name for swap in swaps if _keeps(swap, activation)]
        if names:
            notes.append(
                f"a {activation} stays after {join_first(names)}, so the model does not return logits. For a loss that "
                "takes logits, such as cross_entropy, pass activation='drop'"
            )
    for count in dict.fromkeys(swap.new_count for swap in swaps):
        names = [swap.item.name for swap in swaps if swap.new_count == count and _redraws(swap)]
        if names:
            notes.append(
                f"{join_first(names)} had {count} classes before, and was initialised again. To keep its values, pass "
                f"class_map=range({count}), or call freeze_backbone(model) without a swap"
            )
    return notes


def _keeps(swap: HeadSwap, activation: str) -> bool:
    """Return whether an activation stays after the head, in train mode if it is known in which modes it runs."""
    calls = swap.item.own_activation_calls
    is_in_training = not calls or any(training for training, _ in calls)
    is_kept = swap.new_count and swap.options.activation == "keep" and swap.options.new_head is None
    return bool(is_kept) and swap.item.head.activation == activation and is_in_training


def _redraws(swap: HeadSwap) -> bool:
    options = swap.options
    is_default = options.class_map is None and options.new_head is None and options.init == "default"
    return is_default and swap.new_count == swap.old_count
