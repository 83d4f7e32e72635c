"""Build a model without memory for its large parameters, and with the values that it gives to all the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TypeVar

import torch
from torch import nn

from pytest_headswap.engine.meta import MetaMode

T = TypeVar("T")

LARGE = 2**14
"""Parameters with fewer elements are real: norms and scales are then as the model wants them, and cost little."""


def on_meta_if_possible(build: Callable[[], T]) -> T:
    """Build on meta, and again with memory if that raises: some models compute with values in their initialisers."""
    with suppress(Exception), torch.device("meta"), MetaMode():  # type: ignore[no-untyped-call, unused-ignore] # what remains of it is raised by the second attempt
        return build()
    return build()


def lean_if_possible(build: Callable[[], nn.Module]) -> nn.Module:
    """Build with large parameters on meta, and again with memory for all if that raises or reaches anything else."""
    with suppress(Exception), _large_parameters_on_meta(), MetaMode():  # type: ignore[no-untyped-call, unused-ignore]
        model = build()
        others = (value for module in model.modules() for value in chain(module.__dict__.values(), _small(module)))
        if not any(isinstance(value, torch.Tensor) and value.is_meta for value in others):
            return model
    return build()


def _small(module: nn.Module) -> Iterator[torch.Tensor | None]:
    """What has to be real: buffers, and parameters that no one made without memory."""
    yield from module._buffers.values()
    yield from (value for value in module._parameters.values() if value is not None and not _is_large(value))


def _is_large(parameter: torch.Tensor) -> bool:
    return parameter.numel() >= LARGE and parameter.dim() > 1 and parameter.is_floating_point()


@contextmanager
def _large_parameters_on_meta() -> Iterator[None]:
    """Each large parameter loses its memory when a module registers it; initialisers then do nothing to it."""
    register = nn.Module.register_parameter

    def without_memory(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if type(param) is nn.Parameter and not param.is_meta and _is_large(param):
            bare = nn.Parameter(torch.empty_like(param, device="meta"), param.requires_grad)
            bare.__dict__.update(param.__dict__)
            self._parameters[name] = bare

    nn.Module.register_parameter = without_memory  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
