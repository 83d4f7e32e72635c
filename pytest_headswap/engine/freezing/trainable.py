"""What a freeze leaves trainable: the new heads of all swaps, or the heads of a model that needs no swap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from pytest_headswap.engine.abstract.infer_inputs import infer_inputs
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.modules import modules, parameters
from pytest_headswap.engine.pytorch.wrappers import unwrap
from pytest_headswap.engine.swapping.made_heads import MadeHeads, heads_of_swaps
from pytest_headswap.engine.swapping.plan import plan_swap
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
        were_frozen: whether the heads were frozen before this freeze or, for new heads, the old ones before the swap.
        size_at_swap: elements of all parameters after the last swap; 0 without a swap.
    """

    model: nn.Module
    paths: tuple[str, ...]
    names: frozenset[str]
    aliases: frozenset[str]
    inputs: Inputs
    were_frozen: bool
    size_at_swap: int = 0


def trainable_heads(
    swap: Swap | nn.Module, inputs: Inputs | None, head: str | Sequence[str] | None = None
) -> TrainableHeads:
    """Return the heads that swaps of the model made or, without a swap, those that `swap_head` would replace.

    Args:
        swap: a swap, or a model.
        inputs: the arguments of forward; None to infer them.
        head: paths of the heads of a model, as for `swap_head`.

    Raises:
        HeadSwapError: as for `freeze_backbone`.
    """
    model = swap.model if isinstance(swap, Swap) else swap
    inner, _ = unwrap(model)
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in modules(model)):
        raise HeadSwapError(
            "unsupported_model",
            "DistributedDataParallel waits for the gradients of all parameters that were trainable when it was "
            "created: freeze ddp.module, then wrap it again",
        )
    if isinstance(swap, Swap):
        if head is not None:
            raise HeadSwapError(
                "bad_argument", "a swap has its own heads: pass its model, as freeze_backbone(swap.model, head=...)"
            )
        made = heads_of_swaps(swap._plan.model, swap._made)
        inputs = inputs or _inputs_of(swap)
        if made.names or not swap._made.names:
            return _with_heads(swap.model, made, inputs)
        swap = swap.model  # its head was wrapped by another layer since: search for it
    if head is None and (made := heads_of_swaps(inner)).names:
        return _with_heads(swap, made, inputs or infer_inputs(inner))
    plan = plan_swap(swap, inputs, head)
    if any(item.slot is not None for item in plan.selected):
        raise HeadSwapError(
            "bad_argument",
            f"{type(plan.model).__name__} was built without a head: call swap_head first, then pass the returned "
            "swap to freeze_backbone",
        )
    paths = tuple(plan.prefix + item.head.path for item in plan.selected)
    names = frozenset(plan.prefix + name for item in plan.selected for name in item.head.tensors)
    aliases = frozenset(plan.prefix + name for name in plan.names_of_tensors())
    return TrainableHeads(swap, paths, names, aliases, plan.inputs, plan.were_frozen)


def _with_heads(model: nn.Module, made: MadeHeads, inputs: Inputs) -> TrainableHeads:
    prefix = unwrap(model)[1]
    paths = tuple(prefix + path for path in made.paths)
    names, aliases = (frozenset(prefix + name for name in group) for group in (made.names, made.aliases))
    return TrainableHeads(model, paths, names, names | aliases, inputs, made.were_frozen, made.model_size)


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
