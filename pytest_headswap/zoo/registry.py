"""Zoos by name, and models of a zoo by pattern. Nothing of a library is imported before its zoo is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pytest_headswap.zoo.custom import entry_point_names, load_entry_point, load_reference
from pytest_headswap.zoo.spec import Zoo, ZooError, unknown_name

if TYPE_CHECKING:
    from pytest_headswap.zoo.spec import ModelSpec


@dataclass(frozen=True)
class _Entry:
    load: Callable[[], Zoo]
    library: str = ""
    """The package that has to be installed; the extra that installs it has the same name."""


_ENTRIES: dict[str, _Entry] = {}
_LOADED: dict[str, Zoo] = {}


def register(name: str, load: Callable[[], Zoo], library: str = "") -> None:
    """Make a zoo known under `name`. `load` is called once, when the zoo is first asked for."""
    _ENTRIES[name] = _Entry(load, library)
    _LOADED.pop(name, None)


def zoo_names() -> tuple[str, ...]:
    """The names of all zoos that are known, those that installed distributions offer included, sorted."""
    return tuple(sorted({*_ENTRIES, *entry_point_names()}))


def load_zoo(name: str) -> Zoo:
    """The zoo called `name`, with its listing but without a single model built.

    Args:
        name: that of a known zoo, or `package.module:ATTR`, or `file.py:ATTR`.

    Returns:
        The zoo; the same object each time it is asked for.

    Raises:
        ZooError: there is no such zoo, its library is not installed, or it is not well formed.
    """
    if name not in _LOADED:
        _LOADED[name] = _load(name)
    return _LOADED[name]


def _load(name: str) -> Zoo:
    if name in _ENTRIES:
        return _load_known(name, _ENTRIES[name])
    if name in entry_point_names():
        return load_entry_point(name)
    if ":" in name:
        return load_reference(name)
    raise ZooError(
        unknown_name("zoo", name, zoo_names(), "the installed zoos") + ". A zoo of your own is package.module:ATTR"
    )


def _load_known(name: str, entry: _Entry) -> Zoo:
    try:
        return entry.load()
    except ImportError as error:
        library = entry.library or name
        if (error.name or "").partition(".")[0] != library:
            raise ZooError(f"zoo {name!r} cannot be used: importing {library} failed: {error}") from error
        install = f"pip install 'pytest-headswap[{library}]'"
        raise ZooError(f"zoo {name!r} needs {library}, which is not installed: {install}") from error


def select_models(zoo: Zoo, patterns: str = "") -> tuple[str, ...]:
    """The names of `zoo` that match comma-separated globs, sorted; `!glob` leaves out. Empty: all of them.

    Raises:
        ZooError: a name does not exist (close matches are given), or a glob matches nothing.
    """
    parts = [part.strip() for part in patterns.split(",") if part.strip()]
    wanted = [part for part in parts if not part.startswith("!")] or ["*"]
    chosen: set[str] = set()
    for pattern in wanted:
        chosen |= _matching(zoo, pattern)
    for part in parts:
        if part.startswith("!"):
            chosen -= _matching(zoo, part[1:].strip())
    if parts and not chosen:
        raise ZooError(f"the model selection {patterns!r} leaves nothing of zoo {zoo.name!r}: leave out less")
    return tuple(name for name in zoo.names if name in chosen)


def _matching(zoo: Zoo, pattern: str) -> set[str]:
    if pattern in zoo.names:  # a name may hold characters that a glob would take for its own
        return {pattern}
    if not any(sign in pattern for sign in "*?["):
        raise ZooError(unknown_name("model", pattern, zoo.names, f"zoo {zoo.name!r}"))
    found = {name for name in zoo.names if fnmatchcase(name, pattern)}
    if not found and pattern != "*":
        raise ZooError(f"no model of zoo {zoo.name!r} matches {pattern!r}: it has {', '.join(zoo.names[:5])} ...")
    return found


def _file_of_the_zoo_room(name: str) -> Callable[[], Zoo]:
    def load() -> Zoo:
        zoo: Zoo = importlib.import_module(f"pytest_headswap.zoo.{name}").load()
        return zoo

    return load


register("builtin", _file_of_the_zoo_room("builtin"))
register("timm", _file_of_the_zoo_room("timm"), library="timm")
register("torchvision", _file_of_the_zoo_room("torchvision"), library="torchvision")
register("transformers", _file_of_the_zoo_room("transformers"), library="transformers")


def load_model(text: str) -> tuple[str, ModelSpec]:
    """The zoo's name and the model of `ZOO:MODEL`, such as `timm:levit_128`.

    Raises:
        ZooError: there is no such zoo or model, or the text has not this form.
    """
    zoo, colon, model = text.partition(":")
    if zoo not in zoo_names() and text.count(":") > 1:
        zoo, colon, model = text.rpartition(":")  # a zoo of the user's (`package.module:ATTR`) has a colon of its own
    if not (zoo and colon and model):
        raise ZooError(f"{text!r} is not ZOO:MODEL, such as timm:levit_128; `headswap zoos` lists the zoos")
    return zoo, load_zoo(zoo)[model]
