"""Conditions of entries: `torch>=2.4,<2.6`, `python<3.12, platform=linux`, `device=cuda`. All parts must hold."""

from __future__ import annotations

import difflib
import platform
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

WORDS = ("platform", "machine", "device", "evidence")
"""Names whose values are compared as text, with = and != only."""

_LIBRARIES = ("python", "torch", "torchvision", "timm", "transformers", "pytest", "numpy", "pytest-headswap")
_TERM = re.compile(r"([A-Za-z][\w.-]*)?\s*(===|==|!=|<=|>=|~=|<|>|=)\s*([^\s,=<>!~]+)", re.ASCII)
_HOW = "write it as torch<2.6, python>=3.11, platform=linux, machine=x86_64, device=cuda or evidence=structure"


class ConditionError(ValueError):
    """A condition is invalid; the message says what to write instead."""


@dataclass(frozen=True)
class Here:
    """The machine and run for which conditions are evaluated.

    Attributes:
        device, evidence: the options as given.
        versions: versions stated by zoos, which take precedence over installed ones.
        gpus: counts the GPUs, for `device=auto`.
    """

    device: str = "auto"
    evidence: str = "auto"
    versions: Mapping[str, str] = field(default_factory=dict)
    gpus: Callable[[], int] = int  # returns 0

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
        """Return the value of a name that is compared as text."""
        match name:
            case "platform":
                return sys.platform
            case "machine":
                return platform.machine()
            case "evidence":
                return self.evidence
            case _:
                return self._device_kind()

    def _device_kind(self) -> str:
        """Return the kind of device that `device_placement` uses: `cpu` or `cuda`."""
        if self.device != "auto":
            return self.device.partition(":")[0]
        return "cuda" if self.gpus() else "cpu"


@dataclass(frozen=True)
class Term:
    """One comparison."""

    name: str
    sign: str
    value: str

    def holds(self, here: Here) -> bool:
        """Return whether the comparison holds here. A library that is not installed satisfies none.

        Raises:
            ConditionError: an installed version cannot be parsed, or a name looks mistyped.
        """
        if self.name in WORDS:
            return (here.word(self.name) == self.value) is (self.sign == "=")
        there = here.version(self.name)
        if there is None:
            known = (*WORDS, *_LIBRARIES, *here.versions)
            close = difflib.get_close_matches(self.name, known, n=1, cutoff=0.75)
            if close and self.name not in known:
                raise ConditionError(f"{self.name!r} is not installed: did you mean {close[0]}?")
            return False
        try:
            found = Version(there)
        except InvalidVersion as error:
            raise ConditionError(f"{self.name} has the version {there!r}, which cannot be compared") from error
        return SpecifierSet(f"{self.sign}{self.value}").contains(found, prereleases=True)


def parse_condition(text: str) -> tuple[Term, ...]:
    """Parse a condition into comparisons; one without a name uses the previous name.

    Raises:
        ConditionError: the text is not a condition.
    """
    terms: list[Term] = []
    for part in text.split(","):
        found = _TERM.fullmatch(part.strip())
        if found is None or not (found[1] or terms):
            raise ConditionError(f"{part.strip()!r} is not a condition: {_HOW}")
        name = found[1] or terms[-1].name
        terms.append(_term(name, "=" if found[2] == "==" and name in WORDS else found[2], found[3]))
    return tuple(terms)


def _term(name: str, sign: str, value: str) -> Term:
    if name in WORDS:
        if sign not in ("=", "!="):
            raise ConditionError(f"{name} is compared with = or !=, not with {sign}")
        return Term(name, sign, value)
    sign = "==" if sign == "=" else sign
    try:
        SpecifierSet(f"{sign}{value}")
    except InvalidSpecifier as error:
        raise ConditionError(f"{name}{sign}{value} does not end in a version: {_HOW}") from error
    return Term(name, sign, value)


def holds(text: str, here: Here) -> bool:
    """Return whether a condition holds here; an empty one always does.

    Raises:
        ConditionError: the condition cannot be evaluated.
    """
    found = [term.holds(here) for term in parse_condition(text)] if text else []  # all, to report typos
    return all(found)
