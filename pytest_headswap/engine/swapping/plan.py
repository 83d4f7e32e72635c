"""Plan a swap: find the heads to replace, without changing the model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import nn

from pytest_headswap.engine.abstract.infer_inputs import infer_inputs
from pytest_headswap.engine.abstract.stand_ins import TENSOR_KINDS
from pytest_headswap.engine.detection.search import detect_heads
from pytest_headswap.engine.pytorch.modules import named_parameters
from pytest_headswap.engine.pytorch.wrappers import check_swappable, unwrap
from pytest_headswap.engine.swapping.replace import tensor_references
from pytest_headswap.engine.swapping.select_heads import select_heads

if TYPE_CHECKING:
    from pytest_headswap.engine.detection.describe import DetectedHead
    from pytest_headswap.engine.detection.search_result import SearchResult
    from pytest_headswap.engine.pytorch.inputs import Inputs


P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class SwapPlan:
    """The heads of a model and what the engine recorded about it: everything a swap needs except the new head.

    Attributes:
        outer: the model that was passed in.
        model: the model without wrappers such as `DataParallel`.
        prefix: path of `model` in `outer`, with a trailing dot.
        inputs: the arguments of forward.
        search_result: the result of the search for heads.
        selected: the heads to swap.
        were_frozen: whether no parameter of these heads was trainable.
    """

    outer: nn.Module
    model: nn.Module
    prefix: str
    inputs: Inputs
    search_result: SearchResult
    selected: tuple[DetectedHead, ...]
    were_frozen: bool = False

    def names_of_tensors(self) -> tuple[str, ...]:
        """Return all names, in the model without wrappers, of the tensors that a swap replaces."""
        return tuple(name for item in self.selected for tensor in item.tensors for name in tensor.names)

    @functools.cached_property
    def tensor_references(self) -> list[tuple[Any, Any]]:
        """Where the model refers to tensors. They are listed once, as a plan may be applied several times."""
        return tensor_references(self.model)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the references: in a copy, they would lead to other containers than those of the model."""
        return {key: value for key, value in vars(self).items() if key != "tensor_references"}


def outside_inference_mode(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function outside inference mode.

    Parameters created in inference mode cannot be trained, and operations are recorded differently there.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.inference_mode(mode=False):
            return function(*args, **kwargs)

    return wrapped


@outside_inference_mode
def plan_swap(
    model: nn.Module,
    inputs: Inputs | None,
    head: str | Sequence[str] | None = None,
    tensor_kinds: Sequence[str] = TENSOR_KINDS,
) -> SwapPlan:
    """Find the heads that `swap_head` would replace, without changing the model.

    If `inputs` is None, they are inferred for the model without wrappers.

    Raises:
        HeadSwapError: as for `swap_head`.
    """
    inner, prefix = unwrap(model)
    check_swappable(model)
    inputs = inputs or infer_inputs(inner)
    result = detect_heads(inner, inputs, tensor_kinds=tensor_kinds)
    selected = tuple(select_heads(inner, result, head, prefix))
    names = {name for item in selected for name in item.head.tensors}
    own = [value.requires_grad for name, value in named_parameters(inner) if name in names]
    return SwapPlan(model, inner, prefix, inputs, result, selected, bool(own) and not any(own))
