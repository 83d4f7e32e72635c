"""The result of a swap: the model with its new heads, and the means to restore the old ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pytest_headswap._text import escape_unprintable
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.modules import get_registered_tensor
from pytest_headswap.engine.swapping.export import plain_copy
from pytest_headswap.engine.swapping.made_heads import (
    MadeHeads,
    followed,
    forget_heads,
    heads_of_swaps,
    later_changes,
    remember_heads,
)
from pytest_headswap.engine.swapping.optimizers import forget_replaced
from pytest_headswap.engine.swapping.param_groups import param_groups
from pytest_headswap.engine.swapping.transaction import Transaction
from pytest_headswap.head import Head, html_table

if TYPE_CHECKING:
    from pytest_headswap.engine.swapping.plan import SwapPlan


_MAX_LISTED = 4  # heads shown in the repr of a swap


@dataclass(repr=False)
class Swap:
    """A model with its new heads, and the means to restore the old ones.

    Attributes:
        model: the model that was passed in, changed in place.
        num_classes: class count of the new heads; 0 if the heads were removed. A dict with the count of each head, if
            `swap_head` was called with a mapping.
        heads: the new heads; empty if the heads were removed.
        old_heads: the heads before the swap.
        notes: what else the user should know, such as a buffer whose new values are uncertain.
    """

    model: nn.Module
    num_classes: int | dict[str, int]
    heads: tuple[Head, ...]
    old_heads: tuple[Head, ...]
    notes: tuple[str, ...]
    _names: tuple[str, ...]
    _changes: Transaction
    _plan: SwapPlan
    _made: MadeHeads
    _old_names: Mapping[str, Mapping[str, int]]

    def __repr__(self) -> str:
        heads = [f"{path} {old} -> {new}" for path, old, new in self._counts()]
        more = f", and {len(heads) - _MAX_LISTED} more heads" if len(heads) > _MAX_LISTED else ""
        return f"Swap({type(self._plan.model).__name__}: {', '.join(heads[:_MAX_LISTED])}{more})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._changes.in_force:  # in the copy of the model too
            remember_heads(self._plan.model, self._made, self._changes)

    def _repr_html_(self) -> str:
        rows = [(path, f"{old} -> {new}") for path, old, new in self._counts()]
        return html_table(
            f"Swap of {type(self._plan.model).__name__}", [*rows, *(("note", note) for note in self.notes)]
        )

    def _counts(self) -> list[tuple[str, int, int]]:
        """Return the path of each head, with its old and new class count."""
        counts = [head.num_classes for head in self.heads] or [0] * len(self.old_heads)
        return [
            (escape_unprintable(head.path) or "(the model itself)", head.num_classes, count)
            for head, count in zip(self.old_heads, counts, strict=True)
        ]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the new heads, for the optimizer."""
        return (parameter for _, parameter in self.named_parameters())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters of the new heads with their names in the model."""
        for name in self._names:
            value = get_registered_tensor(self.model, followed(self.model, name))
            if isinstance(value, nn.Parameter):
                yield name, value

    def param_groups(
        self,
        lr: float | None = None,
        *,
        backbone_lr: float | None = None,
        layer_decay: float | None = None,
        weight_decay: float | None = None,
    ) -> list[dict[str, Any]]:
        """Return parameter groups for any optimizer of torch, with a learning rate for each layer.

        Each parameter of the model with `requires_grad` is in exactly one group; frozen ones are left out. Groups have
        a `name`, such as `head` or `layer 3, no decay`. The first ones belong to the heads of all swaps of the model,
        the others to the backbone, from its last layer to its first.

        Args:
            lr: learning rate of the heads.
            backbone_lr: learning rate of the last layer of the backbone. None: `lr`, times `layer_decay` if given.
            layer_decay: factor of at most 1 between the learning rates of a layer and of the next one. None: all layers
                have the same rate. A layer is a residual block, or else a single layer such as a convolution. Their
                order is that of the data flow, which is recorded by running the model on the example inputs of the
                swap. Layers that run in parallel, or that a connection skips, share a rate. A warning says if
                this holds for most of them. Parameters that forward does not use have that of the first layer.
            weight_decay: weight decay of parameters with at least 2 dimensions. None: the default of the optimizer.
                Other parameters, such as those of norms and biases, always have a weight decay of 0.

        Raises:
            HeadSwapError: `bad_argument`, for a missing or invalid number, or a model without trainable parameters.
                `forward_failed`: the model no longer runs on the example inputs.
        """
        heads = heads_of_swaps(self._plan.model, self._made).names
        return param_groups(self._plan, heads, lr, backbone_lr, layer_decay, weight_decay)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return only the tensors of the new heads, by their names in the model."""
        return {name: get_registered_tensor(self.model, followed(self.model, name)).detach() for name in self._names}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load the tensors of a head that `state_dict` returned.

        Raises:
            HeadSwapError: `bad_argument`, if the names or shapes do not match this head.
        """
        mine = self.state_dict()
        given: Any = state
        if not isinstance(given, Mapping) or not all(isinstance(value, torch.Tensor) for value in given.values()):
            raise HeadSwapError("bad_argument", "state must be a mapping of names to tensors, as state_dict() returns")
        missing, unknown = sorted(mine.keys() - state.keys()), sorted(map(str, state.keys() - mine.keys()))
        wrong = [name for name in mine.keys() & state.keys() if mine[name].shape != state[name].shape]
        if missing or unknown or wrong:
            shapes = ", ".join(f"{n} {tuple(state[n].shape)} into {tuple(mine[n].shape)}" for n in sorted(wrong))
            raise HeadSwapError(
                "bad_argument",
                f"the state does not belong to this head: missing {missing}, unknown {unknown}, "
                f"wrong shapes: {shapes or 'none'}",
            )
        with torch.no_grad():
            for name, value in mine.items():
                value.copy_(state[name])

    def export(self) -> nn.Module:
        """Return a copy of the model without anything of this package in it, to save it whole and load it anywhere.

        The copy has the same classes, outputs, `state_dict`, `requires_grad` flags and modes. A freeze does not hold
        in it: the next `train()` wakes batch norm and dropout of the backbone. Wrappers of the model are copied too.

        Raises:
            HeadSwapError: `unsupported_model`, if the model cannot be copied.
        """
        return plain_copy(self.model)

    def restore(self) -> None:
        """Restore the old heads: the original tensors, layers and attributes. A second call does nothing.

        Other swaps of the model stay in force.

        Raises:
            HeadSwapError: `bad_argument`, if a later swap replaced the new heads of this one and is in force.
        """
        later = later_changes(self._plan.model, self._made)
        if any(self._changes.is_covered_by(changes) for changes in later):
            raise HeadSwapError("bad_argument", f"{self!r} was swapped again by a later swap: restore that one first")
        self._changes.roll_back(later)
        forget_heads(self._plan.model, self._made)
        forget_replaced(self._plan.model)

    def reapply(self) -> None:
        """Put the new heads back after `restore`, with their trained values. A second call does nothing."""
        self._changes.replay()
        remember_heads(self._plan.model, self._made, self._changes)
