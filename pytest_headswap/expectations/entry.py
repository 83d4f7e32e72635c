"""One entry of an expectations file, and how it is read from a TOML table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pytest_headswap._text import did_you_mean
from pytest_headswap.expectations.condition import Condition, ConditionError, read_condition
from pytest_headswap.expectations.until import Until, read_until

EXPECTABLE_OUTCOMES = ("failed", "error", "skipped", "crashed", "timeout")
TODO = "TODO"
"""The prefix of reasons that a run wrote and that nobody has completed yet."""


class EntryError(ValueError):
    """An entry is invalid; the message says what to write instead."""


@dataclass(frozen=True)
class Entry:
    """What is expected of some checks of some models, and why.

    Attributes:
        models, checks: globs; `!glob` excludes.
        outcome: one of `EXPECTABLE_OUTCOMES`.
        code: the reason code of a skip or an error; empty: any.
        match: a regular expression to find in the message; empty: any message.
        when: the condition under which the entry applies.
        may_pass: whether passing is also accepted.
        run: False: the check is not run.
        issue: the address or number of the issue about it, shown in reports; empty: none.
        until: when the entry ends; None: never.
        path: the file, as shown in messages.
        line, last_line: the first line of the entry, and the last one with a value.
    """

    zoo: str
    models: tuple[str, ...]
    checks: tuple[str, ...]
    outcome: str
    code: str
    match: str
    when: Condition
    may_pass: bool
    run: bool
    reason: str
    issue: str
    until: Until | None
    path: Path
    line: int
    last_line: int

    @property
    def where(self) -> str:
        """Return the location of the entry in words."""
        return f"{self.path}, line {self.line}"

    @property
    def is_todo(self) -> bool:
        """Return whether the reason still has to be written."""
        return self.reason.lstrip().startswith(TODO)

    @property
    def explanation(self) -> str:
        """Return the reason and the issue on one line."""
        reason = " ".join(self.reason.split())
        return f"{reason} ({self.issue})" if self.issue else reason

    def matches(self, outcome: str, code: str, message: str) -> bool:
        """Return whether an observation is what this entry expects."""
        if outcome != self.outcome or (self.code and code != self.code):
            return False
        return not self.match or re.search(self.match, message) is not None

    def describe(self) -> str:
        """Return what the entry expects, in words."""
        code = f" [{self.code}]" if self.code else ""
        return f"{self.outcome}{code}" + (f" with a message that matches {self.match!r}" if self.match else "")


KEYS = tuple(item.name for item in fields(Entry) if item.name not in ("path", "line", "last_line"))


def read_entry(table: Mapping[str, Any], zoo: str, path: Path, line: int, last_line: int) -> Entry:
    """Return the entry of a table; `zoo` is the default for entries that name none.

    Raises:
        EntryError: a key is missing or invalid.
    """
    for key in table:
        if key not in KEYS:
            raise EntryError(f"unknown key {key!r}{did_you_mean(key, KEYS)} An entry has {', '.join(KEYS)}")
    outcome = _text(table, "outcome")
    if outcome not in EXPECTABLE_OUTCOMES:
        raise EntryError(f"outcome must be one of {', '.join(EXPECTABLE_OUTCOMES)}, not {outcome!r}")
    try:
        when = read_condition(table["when"]) if "when" in table else ()
        until = read_until(table["until"]) if "until" in table else None
    except ConditionError as error:
        raise EntryError(str(error)) from error
    entry = Entry(
        zoo=_text(table, "zoo", zoo),
        models=_patterns(table, "models"),
        checks=_patterns(table, "checks", ("*",)),
        outcome=outcome,
        code=_text(table, "code", ""),
        match=_text(table, "match", ""),
        when=when,
        may_pass=_boolean(table, "may_pass", default=False),
        run=_boolean(table, "run", default=True),
        reason=_text(table, "reason"),
        issue=_issue(table),
        until=until,
        path=path,
        line=line,
        last_line=last_line,
    )
    _validate(entry)
    return entry


def _validate(entry: Entry) -> None:
    if entry.match:
        try:
            re.compile(entry.match)
        except re.error as error:
            raise EntryError(f"match is not a regular expression ({error}): {entry.match!r}") from error
    if entry.code and entry.outcome not in ("skipped", "error"):
        raise EntryError(f"code requires outcome skipped or error, not {entry.outcome}: use match instead")
    if not entry.run and (entry.outcome != "skipped" or entry.match or entry.code or entry.may_pass):
        raise EntryError('run = false requires outcome = "skipped", without match, code and may_pass')


_HINTS = {
    "reason": ": say why this is so, in words that a maintainer of the zoo would accept",
    "outcome": f": write one of {', '.join(EXPECTABLE_OUTCOMES)}",
    "models": ': write a glob such as "resnet*", or a list of globs',
}


def _text(table: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = table.get(key, default)
    if value is None:
        raise EntryError(f"{key} is missing{_HINTS.get(key, '')}")
    if not isinstance(value, str) or (key in table and not value.strip()):
        raise EntryError(f"{key} must be text that is not empty, not {value!r}{_HINTS.get(key, '')}")
    return value


def _issue(table: Mapping[str, Any]) -> str:
    value = table.get("issue", "")
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return f"#{value}"
    return " ".join(_text(table, "issue", "").split())


def _patterns(table: Mapping[str, Any], key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
    value = table.get(key, default)
    if value is None:
        raise EntryError(f"{key} is missing{_HINTS['models']}")
    patterns = (value,) if isinstance(value, str) else value
    if not isinstance(patterns, (list, tuple)) or not patterns:
        raise EntryError(f"{key} must be a glob or a list of globs, not {value!r}")
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern.removeprefix("!").strip():
            raise EntryError(f"{key} must be a glob or a list of globs, but {pattern!r} is not a glob")
    return tuple(patterns)


def _boolean(table: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise EntryError(f"{key} must be true or false, not {value!r}")
    return value
