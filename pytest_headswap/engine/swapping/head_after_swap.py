"""Describe a head after the swap, under the names that the user sees."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from pytest_headswap.engine.swapping.options import HeadSwap
from pytest_headswap.head import Head


def with_prefix(head: Head, prefix: str) -> Head:
    """Return the head with its names in the wrapped model."""
    if not prefix:
        return head
    return replace(
        head,
        path=(prefix + head.path).rstrip("."),
        aliases=tuple(prefix + name for name in head.aliases),
        tensors=tuple(prefix + name for name in head.tensors),
        path_to_output=tuple(
            step._replace(name=(prefix + step.name).rstrip(".")) if step.type else step for step in head.path_to_output
        ),
    )


def head_after_swap(model: nn.Module, swap: HeadSwap) -> Head:
    """Return the new head, with its tensors and class count."""
    item, options, _ = swap
    activation = None if options.activation == "drop" else item.head.activation
    head = replace(item.head, num_classes=options.num_classes, activation=activation)
    if item.label_list is not None:
        own = (f"{head.path}.{name}" for name, _ in model.get_submodule(head.path).named_parameters())
        return replace(head, tensors=(*own, *(tensor.names[0] for tensor in item.tensors)))
    if item.slot is None:
        return head
    layer = model.get_submodule(item.slot.path)
    kind = f"conv{item.slot.spatial}d" if item.slot.spatial else "linear"
    return replace(head, kind=kind, tensors=tuple(f"{item.slot.path}.{name}" for name, _ in layer.named_parameters()))
