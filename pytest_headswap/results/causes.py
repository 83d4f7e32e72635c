"""Group results by cause: one cause may affect many checks of many architectures."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from pytest_headswap.results.matrix import severity
from pytest_headswap.results.result import Result

_NOT_RUN = "not run: "  # in front of the messages of checks that were given up after the first was lost
_COMPARED = 1_000  # characters of a message
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Cause:
    """The results that have one cause.

    Attributes:
        code: a short digest of the cause, the same in all reports.
        results: at least one, all with the same outcome.
        numbers_differ: whether their messages differ in numbers.
    """

    code: str
    results: tuple[Result, ...]
    numbers_differ: bool

    @property
    def first(self) -> Result:
        """Return the result whose message stands for all."""
        return self.results[0]

    @property
    def needs_attention(self) -> bool:
        """Return whether a result needs attention."""
        return any(result.needs_attention for result in self.results)

    @cached_property
    def models(self) -> dict[tuple[str, str], list[Result]]:
        """Return the results by zoo and model."""
        found: dict[tuple[str, str], list[Result]] = {}
        for result in self.results:
            found.setdefault((result.zoo, result.model), []).append(result)
        return found

    @property
    def checks(self) -> tuple[str, ...]:
        """Return the names of the checks."""
        return tuple(dict.fromkeys(result.check for result in self.results))

    @property
    def traceback(self) -> str:
        """Return the first traceback; empty if no result has one."""
        return next((result.traceback for result in self.results if result.traceback), "")


def find_causes(results: Iterable[Result]) -> list[Cause]:
    """Return the causes of all results that are not plain passes, worst first, then those of the most architectures.

    Two results have the same cause if they have the same outcome, and messages whose first 1,000 characters differ only
    in numbers, in the name of the model, and in names of checks.
    """
    results = [result for result in results if result.outcome != "passed"]
    mask_checks = _any_name({result.check for result in results})
    groups: dict[tuple[str, str, str], list[Result]] = {}
    texts: dict[tuple[str, str, str], set[str]] = {}
    for result in results:
        text = mask_checks(without_name(result.full_message[:_COMPARED], result.model).removeprefix(_NOT_RUN))
        key = result.outcome, result.reason, _NUMBER.sub("#", text)
        groups.setdefault(key, []).append(result)
        texts.setdefault(key, set()).add(text)
    causes = [Cause(_digest(key), tuple(group), len(texts[key]) > 1) for key, group in groups.items()]
    return sorted(causes, key=lambda cause: (not cause.needs_attention, severity(cause.first), -len(cause.models)))


def _digest(key: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass")).hexdigest()[:10]


NAME = "\x01"
"""Stands for the name of the model in a text that many models share."""


def without_name(text: str, name: str) -> str:
    """Return the text with `NAME` in place of a name, unless that is part of a longer word."""
    if not name or name not in text:
        return text
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", NAME, text)


def _any_name(names: set[str]) -> Callable[[str], str]:
    """Return a function that replaces each of these names in a text."""
    longest_first = sorted(names, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)") if names else None
    return lambda text: pattern.sub("\x02", text) if pattern is not None else text
