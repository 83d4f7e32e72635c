"""What a model is made of at one time: its modules and their attributes, to see what came back after a change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from pytest_headswap.engine.walk import named_modules

_PLAIN = (bool, int, float, str, bytes, type(None))


class Record:
    """The modules of a model by path, and their attributes: plain values as they are, all else by identity."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        # the objects themselves and not their ids, which others may get once they are gone
        self._attributes = dict(_attributes(model))

    def differences(self) -> list[str]:
        """What is other now than it was, each in words."""
        now = dict(_attributes(self._model))
        words = [f"{name} is gone" for name in self._attributes if name not in now]
        words += [f"{name} is new" for name in now if name not in self._attributes]
        for name, was in self._attributes.items():
            if name in now and not _same(was, now[name]):
                words.append(f"{name} is {_said(now[name])}, it was {_said(was)}")
        return words


def _attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, module in named_modules(model, every_name=True):
        prefix = f"{path}." if path else ""
        for key, value in module.__dict__.items():
            if key in ("_parameters", "_buffers", "_modules"):
                for name, item in value.items():
                    yield f"{prefix}{name}", item
            else:
                yield f"{prefix}{key}", dict(value) if type(value) is dict else value


def _same(one: Any, other: Any) -> bool:
    if type(one) is dict and type(other) is dict:
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, _PLAIN):
        return type(one) is type(other) and (one == other or one != one)
    return one is other


def _said(value: Any) -> str:
    return repr(value) if isinstance(value, _PLAIN) else f"another {type(value).__name__}"
