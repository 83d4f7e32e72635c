"""Ids of tests, `timm::resnet18::output_shape`, and the command that repeats a test.

A name is part of an id as is, except for characters that would make the id ambiguous. `%`, `[`, unprintable characters,
and a `:` at either end or next to another `:` become `%XX`, as in URLs. Every name thus has one id, and every id can be
split again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote

DEFAULT_ZOO = "models"
"""The zoo of models that do not come from a named zoo."""

REPEAT_REPORT = "headswap-repeat"
"""The report folder of commands that repeat one test; it protects the report of the whole run."""

_CHECKS = "--headswap-checks="

# `[` starts a parametrization for pytest, and `::` separates the parts
_RESERVED = re.compile(r"[%\[]|^:|:\Z|:(?=:)|(?<=:):")


class CheckId(NamedTuple):
    """The parts of an id, unescaped."""

    zoo: str
    model: str
    check: str

    def __str__(self) -> str:
        return "::".join(escape(part) for part in self)


def escape(name: str) -> str:
    """Return the form that a name takes in an id."""
    escaped = _RESERVED.sub(lambda match: f"%{ord(match[0]):02X}", name)
    return "".join(char if char.isprintable() else quote(char, safe="", errors="surrogatepass") for char in escaped)


def model_id(zoo: str, model: str) -> str:
    """Return the prefix of the ids of all tests of a model."""
    return f"{escape(zoo)}::{escape(model)}"


def unescape(text: str) -> str:
    """Return the name that `escape` was given."""
    return unquote(text, errors="surrogatepass")


def parse_id(nodeid: str) -> CheckId | None:
    """Return the parts of an id; None if it does not have the form of one."""
    parts = nodeid.split("::")
    return CheckId(*map(unescape, parts)) if len(parts) == 3 else None


def reproduce_command(test: CheckId, flags: Sequence[str], report: str = REPEAT_REPORT) -> str:
    """Return the command line that runs only this test, with a report folder other than that of the whole run."""
    return shlex.join(
        [
            "pytest",
            f"--headswap-zoo={test.zoo}",
            f"--headswap-models={test.model}",
            f"{_CHECKS}{test.check}",
            f"--headswap-report={report}",
            *flags,
        ]
    )


def repeat_checks(command: str, checks: Sequence[str]) -> str:
    """Return a command that repeats one check, changed to these checks of the same model; to the default ones if empty.

    Text that is not such a command is returned unchanged.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    if not any(word.startswith(_CHECKS) for word in words):
        return command
    new = [f"{_CHECKS}{','.join(checks)}"] if checks else []
    return shlex.join(part for word in words for part in (new if word.startswith(_CHECKS) else [word]))
