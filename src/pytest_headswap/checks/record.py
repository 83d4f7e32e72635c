"""What a model is made of at one time: its modules and their attributes, to see what came back after a change."""

from __future__ import annotations

from typing import Any

from torch import nn

from pytest_headswap.engine.walk import named_modules

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_NOTHING: dict[str, Any] = {}
_NOTHING_OF_IT = object()
_PLAIN = (bool, int, float, str, bytes, type(None))


class Record:
    """The modules of a model by path, and their attributes: plain values as they are, all else by identity."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        # the objects themselves and not their ids, which others may get once they are gone
        self._modules = _attributes(model)

    def differences(self) -> list[str]:
        """What is other now than it was, each in words."""
        now = _attributes(self._model)
        words = [f"{path} is gone" for path in self._modules if path not in now]
        words += [f"{path} is new" for path in now if path not in self._modules]
        for path, was in self._modules.items():
            if path in now:
                words += _differences(f"{path}." if path else "", was, now[path])
        return words


def _attributes(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The attributes of each module; dictionaries, such as its registries, are copied."""
    return {
        path: {
            key: (dict(value) if value else _NOTHING) if type(value) is dict or key in _REGISTRIES else value
            for key, value in module.__dict__.items()
        }
        for path, module in named_modules(model, every_name=True)
    }


def _differences(prefix: str, was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    words = []
    for key in dict.fromkeys((*was, *now)) if was.keys() != now.keys() else was:
        if key in now and now[key] is was.get(key, _NOTHING_OF_IT):
            continue
        if key in _REGISTRIES:
            words += _differences(prefix, was.get(key, {}), now.get(key, {}))
        elif key not in now:
            words.append(f"{prefix}{key} is gone")
        elif key not in was:
            words.append(f"{prefix}{key} is new")
        elif not _same(was[key], now[key]):
            words.append(f"{prefix}{key} is {_said(now[key])}, it was {_said(was[key])}")
    return words


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is dict and type(other) is dict:
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return isinstance(one, _PLAIN) and type(one) is type(other) and (one == other or one != one)


def _said(value: Any) -> str:
    return repr(value) if isinstance(value, _PLAIN) else f"another {type(value).__name__}"
