"""Record what flows into the heads of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.pytorch.internals import without_vmap


@contextmanager
def record_head_calls(model: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, list[list[torch.Tensor]]]]:
    """Record copies of the features that each call of these modules receives in the block, by path.

    Features are tensors of floating-point or complex numbers among the arguments.
    """
    calls: dict[str, list[list[torch.Tensor]]] = {}
    handles = []
    for path in paths:

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: str = path) -> None:
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
            features = [without_vmap(x.detach()).clone() for x in tensors if x.is_floating_point() or x.is_complex()]
            calls.setdefault(path, []).append(features)

        handles.append(model.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
