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

ATTRIBUTES = ("platform", "machine", "device", "evidence")
"""Names whose values are compared as text, with = and != only."""

_LIBRARIES = ("python", "torch", "torchvision", "timm", "transformers", "pytest", "numpy", "pytest-headswap")
_COMPARISON = re.compile(r"([A-Za-z][\w.-]*)?\s*(===|==|!=|<=|>=|~=|<|>|=)\s*([^\s,=<>!~]+)", re.ASCII)
_HINT = "write it as torch<2.6, python>=3.11, platform=linux, machine=x86_64, device=cuda or evidence=abstract"


class ConditionError(ValueError):
    """A condition is invalid; the message says what to write instead."""


@dataclass(frozen=True)
class Environment:
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

    def attribute(self, name: str) -> str:
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
class Comparison:
    """One comparison."""

    name: str
    operator: str
    value: str

    def evaluate(self, environment: Environment) -> bool:
        """Return whether the comparison holds here. A library that is not installed satisfies none.

        Raises:
            ConditionError: an installed version cannot be parsed, or a name looks mistyped.
        """
        if self.name in ATTRIBUTES:
            return (environment.attribute(self.name) == self.value) is (self.operator == "=")
        installed = environment.version(self.name)
        if installed is None:
            known = (*ATTRIBUTES, *_LIBRARIES, *environment.versions)
            close = difflib.get_close_matches(self.name, known, n=1, cutoff=0.75)
            if close and self.name not in known:
                raise ConditionError(f"{self.name!r} is not installed: did you mean {close[0]}?")
            return False
        try:
            parsed = Version(installed)
        except InvalidVersion as error:
            raise ConditionError(f"{self.name} has the version {installed!r}, which cannot be compared") from error
        return SpecifierSet(f"{self.operator}{self.value}").contains(parsed, prereleases=True)


def parse_condition(text: str) -> tuple[Comparison, ...]:
    """Parse a condition into comparisons; one without a name uses the previous name.

    Raises:
        ConditionError: the text is not a condition.
    """
    terms: list[Comparison] = []
    for part in text.split(","):
        match = _COMPARISON.fullmatch(part.strip())
        if match is None or not (match[1] or terms):
            raise ConditionError(f"{part.strip()!r} is not a condition: {_HINT}")
        name = match[1] or terms[-1].name
        terms.append(_comparison(name, "=" if match[2] == "==" and name in ATTRIBUTES else match[2], match[3]))
    return tuple(terms)


def _comparison(name: str, operator: str, value: str) -> Comparison:
    if name in ATTRIBUTES:
        if operator not in ("=", "!="):
            raise ConditionError(f"{name} is compared with = or !=, not with {operator}")
        return Comparison(name, operator, value)
    operator = "==" if operator == "=" else operator
    try:
        SpecifierSet(f"{operator}{value}")
    except InvalidSpecifier as error:
        raise ConditionError(f"{name}{operator}{value} does not end in a version: {_HINT}") from error
    return Comparison(name, operator, value)


def evaluate(text: str, environment: Environment) -> bool:
    """Return whether a condition holds here; an empty one always does.

    Raises:
        ConditionError: the condition cannot be evaluated.
    """
    values = [term.evaluate(environment) for term in parse_condition(text)] if text else []  # all, to report typos
    return all(values)
