"""Globs of names, in which `!` leaves out; a name can always be written so that it stands for itself alone."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase


def fits(pattern: str, name: str) -> bool:
    """Whether a name is that of the pattern, or fits it as a glob. `[!]` at the beginning stands for a `!`."""
    if pattern == name:
        return True
    if pattern.startswith("[!]"):
        return name.startswith("!") and fnmatchcase(name[1:], pattern[3:])
    return fnmatchcase(name, pattern)


def matching(patterns: Sequence[str], names: Iterable[str]) -> frozenset[str]:
    """The names that the patterns stand for; without one that takes in, all that are not left out."""
    taken = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    left_out = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return frozenset(
        name
        for name in names
        if any(fits(pattern, name) for pattern in taken) and not any(fits(pattern, name) for pattern in left_out)
    )


def literal(name: str) -> str:
    """The pattern that stands for this name. What cannot be written in a file becomes `?`."""
    written = name.encode("utf-8", "replace").decode() if not _is_written(name) else glob.escape(name)
    return f"[!]{written[1:]}" if written.startswith("!") else written


def without(patterns: Sequence[str], name: str) -> list[str]:
    """The patterns, less a name: it is taken from the list where it stands there, and left out of globs.

    Empty where they stood for names alone, and for no other one.
    """
    own = literal(name)
    left = [pattern for pattern in patterns if pattern != own and not (pattern == name and is_plain(name))]
    if len(left) < len(patterns) and all(pattern.startswith("!") for pattern in left):
        return []
    return [*left, f"!{own}"] if matching(left, [name]) else left


def is_plain(pattern: str) -> bool:
    """Whether a pattern stands for the name that it is, and for no other."""
    return not pattern.startswith("!") and not any(sign in pattern for sign in "*?[")


def _is_written(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
