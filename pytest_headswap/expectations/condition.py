"""Conditions of entries: `when = {torch = ">=2.4,<2.6", device = "cuda"}`. All keys must hold."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from pytest_headswap._devices import DEVICE_TYPES, is_real
from pytest_headswap._text import did_you_mean

WORDS: dict[str, tuple[str, ...]] = {
    "platform": (),
    "machine": (),
    "device": (),
    "evidence": ("auto", "abstract", "numeric"),
}
"""Keys that are compared as words, with their possible words; empty: any word. All other keys are libraries."""

_LIBRARIES = ("python", "torch", "torchvision", "timm", "transformers", "pytest", "numpy", "pytest-headswap")
_DEVICES = ("cpu", *DEVICE_TYPES)
_EXAMPLE = '{torch = "<2.6", platform = "linux"}'
_OLD_FORM = re.compile(r"([\w-]+)\s*(?:=(?!=)\s*)?(\S.*)", re.ASCII)

Condition = tuple[tuple[str, SpecifierSet | tuple[str, ...]], ...]
"""Each key with the versions or the words that it accepts; empty: always true."""


class ConditionError(ValueError):
    """A condition is invalid; the message says what to write instead."""


@dataclass(frozen=True)
class Environment:
    """The machine and run for which conditions are evaluated.

    Attributes:
        device, evidence: the options as given.
        versions: versions stated by zoos, which take precedence over installed ones.
        accelerator: returns the type of device that `device=auto` uses; empty if there is none.
    """

    device: str = "auto"
    evidence: str = "auto"
    versions: Mapping[str, str] = field(default_factory=dict)
    accelerator: Callable[[], str] = str  # returns an empty text

    def version(self, name: str) -> str | None:
        """Return the version of a library or of Python; None if it is not installed."""
        if name == "python":
            return platform.python_version()
        if name in self.versions:
            return self.versions[name]
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    def word(self, name: str) -> str:
        """Return the value of one of `WORDS`."""
        match name:
            case "platform":
                return sys.platform
            case "machine":
                return platform.machine()
            case "evidence":
                return self.evidence
            case _:
                named = self.device if is_real(self.device) else "cpu"
                return named.partition(":")[0] if named != "auto" else self.accelerator() or "cpu"


def read_condition(value: Any) -> Condition:
    """Return the condition that a TOML value describes.

    Raises:
        ConditionError: the value is not a table of versions and words.
    """
    if not isinstance(value, Mapping) or not value:
        raise ConditionError(f"when must be a table such as {_EXAMPLE}, not {value!r}{_suggestion(value)}")
    return tuple((key, _words(key, item) if key in WORDS else _versions(key, item)) for key, item in value.items())


def _words(key: str, value: Any) -> tuple[str, ...]:
    words = tuple(value) if isinstance(value, list) else (value,)
    known = WORDS[key]
    for word in words:
        if not isinstance(word, str) or not re.fullmatch(r"[\w.-]+", word):
            raise ConditionError(f"when.{key} must be a word or a list of words, not {value!r}")
        if known and word not in known:
            raise ConditionError(f"when.{key} is {word!r}{did_you_mean(word, known)} It can be {' or '.join(known)}")
        if key == "device" and word not in _DEVICES:  # it may be the name of a backend that is not installed here
            hint = did_you_mean(word.lower().replace("gpu", "cuda"), _DEVICES, cutoff=0.8)
            if hint != ".":
                raise ConditionError(f"when.device is {word!r}{hint}")
    if not words:
        raise ConditionError(f"when.{key} must be a word or a list of words, not {value!r}")
    return words


def _versions(key: str, value: Any) -> SpecifierSet:
    try:
        if isinstance(value, str) and value.strip():
            return SpecifierSet(value)
    except InvalidSpecifier:
        pass
    raise ConditionError(f'when.{key} must compare versions, such as "<2.6", "==2.6.*" or ">=2.4,<2.6", not {value!r}')


def _suggestion(value: Any) -> str:
    """Return how to write a comparison such as `torch<2.6` as a table, if it is one."""
    match = _OLD_FORM.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return ""
    try:
        read_condition({match[1]: match[2]})
    except ConditionError:
        return ""
    return f': write when = {{{match[1]} = "{match[2]}"}}'


def evaluate(condition: Condition, environment: Environment) -> bool:
    """Return whether a condition holds here. The versions of a library that is not installed never do.

    Raises:
        ConditionError: an installed version cannot be parsed, or the name of a library looks mistyped.
    """
    holds = [_holds(key, accepted, environment) for key, accepted in condition]  # all of them, to report typos
    return all(holds)


def _holds(key: str, accepted: SpecifierSet | tuple[str, ...], environment: Environment) -> bool:
    if isinstance(accepted, tuple):
        return environment.word(key) in accepted
    installed = environment.version(key)
    if installed is None:
        known = (*WORDS, *_LIBRARIES, *environment.versions)
        hint = did_you_mean(key, known, cutoff=0.85)  # torchao is not a mistyped torch
        if key not in known and hint != ".":
            raise ConditionError(f"when.{key} names a library that is not installed{hint}")
        return False
    try:
        return accepted.contains(Version(installed), prereleases=True)
    except InvalidVersion as error:
        raise ConditionError(f"when.{key}: the installed version {installed!r} cannot be compared") from error
