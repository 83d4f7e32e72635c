"""Find the objects that dictionaries are the attributes of, because copies and pickles do not preserve this."""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

_NO_HOLDERS = (torch.Tensor, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType)


class AttributesOf:
    """Stands for `vars(owner)` in a copy or pickle."""

    __slots__ = ("owner",)

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.owner,)


def attributes_of(model: nn.Module, containers: Collection[Any]) -> dict[int, AttributesOf]:
    """Return the owners of those `containers` that are the attributes of an object in `model`, by their ids."""
    wanted = {id(container) for container in containers}
    found: dict[int, AttributesOf] = {}
    seen: set[int] = set()
    waiting: list[Any] = [model]
    while waiting and wanted:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, _NO_HOLDERS):
            continue
        seen.add(id(item))
        wanted.discard(id(item))  # a container that is found as a value is copied with its holder
        if isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += item
        state = getattr(item, "__dict__", None)
        if isinstance(state, dict):
            if id(state) in wanted:
                wanted.remove(id(state))
                found[id(state)] = AttributesOf(item)
            waiting += state.values()
    return found
