"""See whether a forward pass leaves state behind that the next one may read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.reachable_code import PLAIN
from pytest_headswap.engine.abstract.stand_ins import REGISTRIES, surroundings_of
from pytest_headswap.engine.pytorch.modules import modules

_PARTS = ("_parameters", "_buffers", "_modules")


class WrittenState:
    """What a forward pass can write, as it is at the time of creation, other than the values of parameters.

    That is: attributes and buffers of modules, and the objects, containers, closures, globals and caches that they
    reach. What Python does not show is left out, such as the position of an iterator.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = modules(model)
        self._surroundings = surroundings_of(self._modules)
        self._states = [list(_state_of(module)) for module in self._modules]
        recorded = chain(*self._states, (was for _, was in self._surroundings.pairs()))
        self._versions = {
            id(value): (value, value._version)
            for part in recorded
            for value in _items(part)
            if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter) and not value.is_inference()
        }

    def has_changed(self) -> bool:
        """Return whether any of it has changed."""
        now = zip(chain(*map(_state_of, self._modules)), chain(*self._states), strict=True)
        return any(tensor._version != version for tensor, version in self._versions.values()) or not all(
            _same(new, old, depth=1) for new, old in chain(now, self._surroundings.pairs())
        )


def _state_of(module: nn.Module) -> Iterator[dict[str, Any]]:
    yield {key: value for key, value in module.__dict__.items() if key not in REGISTRIES}
    yield from (dict(getattr(module, key).items()) for key in _PARTS)  # a script module keeps them elsewhere


def _items(value: Any) -> Any:
    return value.values() if type(value) is dict else value if type(value) is list else (value,)


def _same(new: Any, old: Any, depth: int = 0) -> bool:
    """Return whether both are one object or equal plain values. With `depth`, they may be containers of such."""
    if new is old:
        return True
    if type(new) is not type(old):
        return False
    if depth and isinstance(old, dict):
        return new.keys() == old.keys() and all(_same(new[key], old[key], depth - 1) for key in old)
    if depth and isinstance(old, list):
        return len(new) == len(old) and all(map(_same, new, old))
    return type(new) in PLAIN and bool(new == old)
