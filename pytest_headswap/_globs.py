"""Match names against globs. A leading `!` excludes, and every name has a pattern that matches only this name."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase


def matches_glob(pattern: str, name: str) -> bool:
    """Return whether the pattern is the name, or matches it as a glob. A leading `[!]` matches a literal `!`."""
    if pattern == name:
        return True
    if pattern.startswith("[!]"):
        return name.startswith("!") and fnmatchcase(name[1:], pattern[3:])
    return fnmatchcase(name, pattern)


def select_names(patterns: Sequence[str], names: Iterable[str]) -> frozenset[str]:
    """Return the names that the patterns select. If all patterns exclude, every other name is selected."""
    included = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    excluded = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return frozenset(
        name
        for name in names
        if any(matches_glob(pattern, name) for pattern in included)
        and not any(matches_glob(pattern, name) for pattern in excluded)
    )


def escape_glob(name: str) -> str:
    """Return the pattern that matches only this name. Characters that UTF-8 cannot encode become `?`."""
    pattern = name.encode("utf-8", "replace").decode() if not _is_encodable(name) else glob.escape(name)
    return f"[!]{pattern[1:]}" if pattern.startswith("!") else pattern


def _is_encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
