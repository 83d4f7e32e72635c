"""Record the modules and attributes of a model, and report what differs after a change."""

from __future__ import annotations

from operator import is_
from typing import Any

from torch import nn

from pytest_headswap.engine.pytorch import named_modules

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_NOTHING: dict[str, Any] = {}
_PLAIN_TYPES = (bool, int, float, str, bytes, type(None))


class StructureSnapshot:
    """The modules of a model by path, with their attributes: plain values by value, all others by identity."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        # Keep the objects, not their ids: an id is reused after its object is gone.
        self._modules = _attributes(model)

    def differences(self) -> list[str]:
        """Return what differs now, in words."""
        now = _attributes(self._model)
        words = [f"{path} was removed" for path in self._modules if path not in now]
        words += [f"{path} was added" for path in now if path not in self._modules]
        for path, was in self._modules.items():
            for one, other in zip(was, now.get(path, was), strict=True):
                if not _identical(one, other):
                    words += _differences(f"{path}." if path else "", one, other)
        return words


_State = tuple[dict[str, Any], ...]
"""Copies of the attributes of a module and of its registries."""


def _attributes(model: nn.Module) -> dict[str, _State]:
    return {path: _state(module) for path, module in named_modules(model, include_aliases=True)}


def _state(module: nn.Module) -> _State:
    attributes = module.__dict__.copy()
    registries = [attributes.pop(key, _NOTHING) for key in _REGISTRIES]
    if dict in map(type, attributes.values()):
        attributes.update((key, dict(value)) for key, value in attributes.items() if type(value) is dict)
    return attributes, *(dict(registry) if registry else _NOTHING for registry in registries)


def _identical(was: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether both hold the same objects in the same order. This is the fast path for most modules."""
    return was is now or (list(was) == list(now) and all(map(is_, was.values(), now.values())))


def _differences(prefix: str, was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    words = []
    for key in dict.fromkeys((*was, *now)):
        if key not in now:
            words.append(f"{prefix}{key} was removed")
        elif key not in was:
            words.append(f"{prefix}{key} was added")
        elif not _same(was[key], now[key]):
            words.append(
                f"{prefix}{key} is {_describe_value(now[key], 'another')}, not "
                f"{_describe_value(was[key], 'the original')}"
            )
    return words


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is dict and type(other) is dict:
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return isinstance(one, _PLAIN_TYPES) and type(one) is type(other) and (one == other or one != one)


def _describe_value(value: Any, which: str) -> str:
    return repr(value) if isinstance(value, _PLAIN_TYPES) else f"{which} {type(value).__name__}"
