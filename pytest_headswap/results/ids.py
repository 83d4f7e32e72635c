"""Ids of tests, `timm::resnet18::output_shape`, and the command that repeats one.

A name stands in an id as it is, except for what would make the id unreadable for pytest or for us: `%`,
`[`, a `:` at either end or beside another `:`, and characters that cannot be printed become `%XX`, as in
addresses of the web. So every name has one id, and every id can be split again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote

UNNAMED_ZOO = "models"
"""The zoo of models that come without the name of one."""

REPEAT_REPORT = "headswap-repeat"
"""The report folder of a command that repeats one test, so that it leaves the report of the whole run alone."""

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
    """The form in which a name stands in an id."""
    escaped = _RESERVED.sub(lambda match: f"%{ord(match[0]):02X}", name)
    return "".join(char if char.isprintable() else quote(char, safe="", errors="surrogatepass") for char in escaped)


def model_id(zoo: str, model: str) -> str:
    """What the ids of all tests of a model begin with."""
    return f"{escape(zoo)}::{escape(model)}"


def unescape(text: str) -> str:
    """The name that `escape` was given."""
    return unquote(text, errors="surrogatepass")


def parse_id(nodeid: str) -> CheckId | None:
    """The parts of an id, or None when it has not the form of one."""
    parts = nodeid.split("::")
    return CheckId(*map(unescape, parts)) if len(parts) == 3 else None


def repro_command(test: CheckId, flags: Sequence[str], report: str = REPEAT_REPORT) -> str:
    """Return the command line that runs this test alone, with a report folder other than that of the whole run."""
    return shlex.join(
        [
            "pytest",
            f"--headswap-zoo={test.zoo}",
            f"--headswap-models={test.model}",
            f"--headswap-checks={test.check}",
            f"--headswap-report={report}",
            *flags,
        ]
    )
