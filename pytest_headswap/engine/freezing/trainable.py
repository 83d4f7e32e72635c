"""What a freeze leaves trainable: the new heads of a swap, or the heads of a model that needs no swap."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.modules import parameters
from pytest_headswap.engine.swapping.plan import SwapPlan, plan_swap
from pytest_headswap.engine.swapping.swap import Swap


@dataclass(frozen=True)
class TrainableHeads:
    """The heads of a model that a freeze leaves trainable.

    Attributes:
        model: the model as the user passed it, wrappers included.
        paths: paths of the heads in `model`.
        names: names of the tensors of the heads in `model`.
        aliases: all names that a swap gives a new tensor, such as those of tied heads.
        inputs: inputs for the model without wrappers.
    """

    model: nn.Module
    paths: tuple[str, ...]
    names: frozenset[str]
    aliases: frozenset[str]
    inputs: Inputs


def trainable_heads(swap: Swap | nn.Module, inputs: Inputs | None) -> TrainableHeads:
    """Return the new heads of a swap, or the heads that `swap_head` would replace in a model.

    Raises:
        HeadSwapError: as for `freeze_backbone`.
    """
    if isinstance(swap, Swap):
        paths = tuple(head.path for head in swap.heads)
        names = frozenset(swap.state_dict())
        return TrainableHeads(swap.model, paths, names, _aliases(swap._plan), inputs or _inputs_of(swap))
    plan = plan_swap(swap, inputs)
    if any(item.slot is not None for item in plan.selected):
        raise HeadSwapError(
            "bad_argument",
            f"{type(plan.model).__name__} was built without a head: call swap_head first, then pass the returned "
            "swap to freeze_backbone",
        )
    paths = tuple(plan.prefix + item.head.path for item in plan.selected)
    names = frozenset(plan.prefix + name for item in plan.selected for name in item.head.tensors)
    return TrainableHeads(swap, paths, names, _aliases(plan), plan.inputs)


def _aliases(plan: SwapPlan) -> frozenset[str]:
    return frozenset(plan.prefix + name for item in plan.selected for tensor in item.tensors for name in tensor.names)


def _inputs_of(swap: Swap) -> Inputs:
    """Return the inputs of the swap on the model's current device and in its current dtype."""
    floating = [parameter for parameter in parameters(swap.model) if parameter.is_floating_point()]
    if not floating or floating[0].is_meta:
        return swap._plan.inputs
    device, dtypes = floating[0].device, {parameter.dtype for parameter in floating}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    return swap._plan.inputs.map_tensors(
        lambda tensor: tensor.to(
            tensor.device if tensor.is_meta else device, dtype if tensor.is_floating_point() else None
        )
    )
