"""Prove that nothing keeps the tensors of an abstract run alive."""

from __future__ import annotations

import gc
import types
import weakref
from collections.abc import Iterator

import torch

from pytest_headswap.engine.errors import HeadSwapError

_MAX_NAMED = 3  # holders named in the message


def check_released(references: list[weakref.ref[torch.Tensor]], model: str) -> None:
    """Raise an error if something still holds a tensor of a run.

    Raises:
        HeadSwapError: `leaked_tensor`, with the type of what holds it.
    """
    if not any(reference() is not None for reference in references):
        return
    gc.collect()
    alive = [tensor for reference in references if (tensor := reference()) is not None]
    if not alive:
        return
    holders = sorted(set(_holders(alive)))[:_MAX_NAMED]
    raise HeadSwapError(
        "leaked_tensor",
        f"forward of {model} stores a tensor in {', '.join(holders) or 'an object of a C extension'}, where it cannot "
        "be found and removed. Its next real run may fail: clear that cache. To use the model here, keep the cache "
        "in an attribute of the module",
    )


def _holders(alive: list[torch.Tensor]) -> Iterator[str]:
    """Yield a description of everything that holds one of the tensors."""
    own = {id(alive)} | {id(tensor) for tensor in alive}
    for holder in gc.get_referrers(*alive):
        if id(holder) not in own and not isinstance(holder, types.FrameType):
            yield f"{type(holder).__module__}.{type(holder).__qualname__}"
