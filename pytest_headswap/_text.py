"""Names and messages come from anywhere: how they are shown so that they can neither hide nor break anything."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable
from typing import Any

from pytest_headswap._links import page

_UNSAFE = re.compile(r"[^a-z0-9._-]+")


def printable(text: str, *, lines: bool = False) -> str:
    """The text with everything escaped that cannot be seen, or that changes how its neighbours are seen.

    Control characters, the marks that turn the direction of text, lone surrogates; line breaks unless `lines`.
    """
    if text.isprintable():
        return text
    kept = "\n" if lines else ""
    return "".join(char if char.isprintable() or char in kept else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """A message on one line."""
    return printable(" ".join(text.split()))


def shortened(text: str, most: int) -> str:
    """The beginning of a text that is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def shortened_left(text: str, most: int) -> str:
    """The end of a text that is longer than `most` characters: in a path the end says most."""
    return text if len(text) <= most else "…" + text[1 - most :]


def file_name(*names: str) -> str:
    """A file name for what has these names: readable, the same in every run, its own, and sound in every folder."""
    # the digest tells names apart that look the same to a file system, which may not know case or accents
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    readable = _UNSAFE.sub("-", names[-1].lower()).strip(".-")[:60].rstrip(".-")
    return f"{readable}-{digest}.html" if readable else f"model-{digest}.html"


def explained_at(reason: str) -> str:
    """The page that explains a reason code; those of users' own checks lead to its beginning."""
    return page("errors", reason if reason.isascii() and reason.isidentifier() else "")


def counted(number: int, unit: str, plural: str = "") -> str:
    """`1 model`, `1,371 models`."""
    return f"{number:,} {unit if number == 1 else plural or unit + 's'}"


def duration(seconds: float) -> str:
    """`20 ms`, `0.3 s`, `42 s`, `5 min 10 s`, `2 h 5 min`."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def listed(text: str) -> list[str]:
    """The names in a text that separates them by commas."""
    return [name for part in text.split(",") if (name := part.strip())]


def did_you_mean(value: Any, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name, with those that come close."""
    close = difflib.get_close_matches(str(value), list(known), n=3)
    return f": did you mean {' or '.join(close)}?" if close else "."
