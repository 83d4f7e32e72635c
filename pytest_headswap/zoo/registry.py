"""Find zoos by name, and models of a zoo by pattern. A model library is imported only when its zoo is requested."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pytest_headswap.zoo.custom import entry_point_names, load_entry_point, load_reference, parse_reference
from pytest_headswap.zoo.spec import Zoo, ZooError, unknown_name

if TYPE_CHECKING:
    from pytest_headswap.zoo.spec import ModelSpec


@dataclass(frozen=True)
class _Entry:
    load: Callable[[], Zoo]
    library: str = ""
    """The package that must be installed; the extra that installs it has the same name."""


_ENTRIES: dict[str, _Entry] = {}
_LOADED: dict[str, Zoo] = {}


def register(name: str, load: Callable[[], Zoo], library: str = "") -> None:
    """Register a zoo under `name`. `load` is called once, when the zoo is first requested."""
    _ENTRIES[name] = _Entry(load, library)
    _LOADED.pop(name, None)


def registration(name: str) -> tuple[Callable[[], Zoo], str] | None:
    """Return the function that loads a registered zoo, and the library that it needs; None for other zoos."""
    entry = _ENTRIES.get(name)
    return (entry.load, entry.library) if entry is not None else None


def zoo_names() -> tuple[str, ...]:
    """Return the sorted names of all known zoos, including those that installed distributions register."""
    return tuple(sorted({*_ENTRIES, *entry_point_names()}))


def load_zoo(name: str) -> Zoo:
    """Return the zoo called `name`: a list of its models, none of them built.

    Args:
        name: the name of a known zoo, `package.module:ATTR`, or `file.py:ATTR`.

    Returns:
        The zoo; repeated calls return the same object.

    Raises:
        ZooError: there is no such zoo, its library is not installed, or it is malformed.
    """
    if name not in _LOADED:
        _LOADED[name] = _load(name)
    return _LOADED[name]


def _load(name: str) -> Zoo:
    reject_unknown_zoo(name)
    if name in _ENTRIES:
        return _load_known(name, _ENTRIES[name])
    return load_entry_point(name) if name in entry_point_names() else load_reference(name)


def reject_unknown_zoo(name: str) -> None:
    """Raise `ZooError` if `name` cannot refer to a zoo. This imports nothing."""
    if name in zoo_names():
        return
    if name.endswith(".py"):
        raise ZooError(f"zoo {name!r} is a file without an attribute: use {name}:ATTR, such as {name}:ZOO")
    if ":" in name:
        parse_reference(name)
        return
    raise ZooError(unknown_name("zoo", name, zoo_names()) + " (for your own zoo, use package.module:ATTR)")


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
    """Return the sorted names of `zoo` that match comma-separated globs. `!glob` excludes. Without globs, return all.

    Raises:
        ZooError: a name does not exist (the message suggests close matches), or a glob matches nothing.
    """
    parts = [part.strip() for part in patterns.split(",") if part.strip()]
    included = [part for part in parts if not part.startswith("!")] or ["*"]
    selected: set[str] = set()
    for pattern in included:
        selected |= match_models(zoo, pattern)
    for part in parts:
        if part.startswith("!"):
            selected -= match_models(zoo, part[1:].strip())
    if parts and not selected:
        raise ZooError(f"{patterns!r} excludes every model of zoo {zoo.name!r}: remove some of the ! patterns")
    return tuple(name for name in zoo.names if name in selected)


def match_models(zoo: Zoo, pattern: str) -> set[str]:
    """Return the names of `zoo` that one name or glob matches.

    Raises:
        ZooError: the name does not exist (the message suggests close matches), or the glob matches nothing.
    """
    if pattern in zoo.names:  # a name may contain glob characters
        return {pattern}
    if not any(sign in pattern for sign in "*?["):
        raise ZooError(unknown_name("model", pattern, zoo.names, f"zoo {zoo.name!r}"))
    matches = {name for name in zoo.names if fnmatchcase(name, pattern)}
    if not matches and pattern != "*":
        raise ZooError(f"no model of zoo {zoo.name!r} matches {pattern!r}: it has {', '.join(zoo.names[:5])} ...")
    return matches


def _builtin_zoo_loader(name: str) -> Callable[[], Zoo]:
    def load() -> Zoo:
        zoo: Zoo = importlib.import_module(f"pytest_headswap.zoo.{name}").load()
        return zoo

    return load


register("builtin", _builtin_zoo_loader("builtin"))
register("timm", _builtin_zoo_loader("timm"), library="timm")
register("torchvision", _builtin_zoo_loader("torchvision"), library="torchvision")
register("transformers", _builtin_zoo_loader("transformers"), library="transformers")


def load_spec(text: str) -> tuple[str, ModelSpec]:
    """Return the name of the zoo and the model of `ZOO:MODEL`, such as `timm:levit_128`.

    Raises:
        ZooError: there is no such zoo or model, or the text does not have this form.
    """
    zoo, model = _split(text)
    if not (zoo and model):
        raise ZooError(_wrong_form(text))
    return zoo, load_zoo(zoo)[model]


def find_models(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the zoo and the sorted models of `ZOO:MODEL`, or of a model that only one zoo has. Globs are possible.

    Raises:
        ZooError: nothing matches, several zoos match, or the text does not have this form.
    """
    zoo, model = _split(text)
    if zoo and model:
        return zoo, tuple(sorted(match_models(load_zoo(zoo), model)))
    if ":" in text or text in zoo_names():
        raise ZooError(_wrong_form(text))
    found: dict[str, tuple[str, ...]] = {}
    known: dict[str, None] = {}
    for name in zoo_names():
        with suppress(ZooError):  # a zoo that is not installed, or that has no such model
            loaded = load_zoo(name)
            known.update(dict.fromkeys(loaded.names))
            found[name] = tuple(sorted(match_models(loaded, text)))
    if not found:
        raise ZooError(unknown_name("model", text, list(known)))
    if len(found) > 1:
        raise ZooError(f"several zoos have {text!r}: use {' or '.join(f'{name}:{text}' for name in found)}")
    ((zoo, models),) = found.items()
    return zoo, models


def _split(text: str) -> tuple[str, str]:
    zoo, _, model = text.partition(":")
    if zoo not in zoo_names() and text.count(":") > 1:
        zoo, _, model = text.rpartition(":")  # a user's zoo (`package.module:ATTR`) contains a colon itself
    return zoo, model


def _wrong_form(text: str) -> str:
    return f"{text!r} is not ZOO:MODEL, such as timm:levit_128; `headswap list-zoos` lists the zoos"
