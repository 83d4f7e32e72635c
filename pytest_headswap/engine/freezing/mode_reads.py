"""Notice when forward reads whether its module is in train mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def mode_reads(watched: Iterable[nn.Module]) -> Iterator[list[nn.Module]]:
    """Yield a list to which each read of `training` in the block adds the module, if it is one of these.

    A property of the class takes precedence over the attribute of the module, so each class gets one for the block.
    """
    reads: list[nn.Module] = []
    ids = {id(module) for module in watched}
    kinds: dict[Any, None] = {}
    for module in watched:
        if any("training" in vars(base) for base in type(module).__mro__):
            reads.append(module)  # the class computes its mode
        else:
            kinds[type(module)] = None

    def read(module: nn.Module) -> bool:
        if id(module) in ids:
            reads.append(module)
        return module.__dict__["training"]  # type: ignore[no-any-return]

    def write(module: nn.Module, mode: bool) -> None:
        module.__dict__["training"] = mode

    try:
        for kind in kinds:
            kind.training = property(read, write)
        yield reads
    finally:
        for kind in kinds:
            if "training" in vars(kind):
                del kind.training
