"""Format text for messages, reports and file names.

Names and messages come from arbitrary sources. They are escaped so that they can neither hide nor break other text.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable
from typing import Any

from pytest_headswap._links import page

_UNSAFE = re.compile(r"[^a-z0-9._-]+")


def printable(text: str, *, lines: bool = False) -> str:
    """Return the text with invisible characters escaped, and those that change how neighbouring text is displayed.

    These are control characters, text direction marks and lone surrogates, and also line breaks unless `lines` is
    true.
    """
    if text.isprintable():
        return text
    kept = "\n" if lines else ""
    return "".join(char if char.isprintable() or char in kept else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """Return a message on one line."""
    return printable(" ".join(text.split()))


def shortened(text: str, most: int) -> str:
    """Return the text, cut at the end if it is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def shortened_left(text: str, most: int) -> str:
    """Return the text, cut at the start if it is longer than `most` characters. Use it for paths."""
    return text if len(text) <= most else "…" + text[1 - most :]


def file_name(*names: str) -> str:
    """Return an HTML file name for these names.

    It is readable, unique, stable between runs, and valid on every file system.
    """
    # File systems may ignore case or accents; the digest keeps such names apart.
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    readable = _UNSAFE.sub("-", names[-1].lower()).strip(".-")[:60].rstrip(".-")
    return f"{readable}-{digest}.html" if readable else f"model-{digest}.html"


def explained_at(reason: str) -> str:
    """Return the page that explains a reason code. Codes of users' own checks lead to the top of the page."""
    return page("errors", reason if reason.isascii() and reason.isidentifier() else "")


def counted(number: int, unit: str, plural: str = "") -> str:
    """Return a number with its unit: `1 model`, `1,371 models`."""
    return f"{number:,} {unit if number == 1 else plural or unit + 's'}"


def duration(seconds: float) -> str:
    """Return a duration as text: `20 ms`, `0.3 s`, `42 s`, `5 min 10 s`, `2 h 5 min`."""
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
    """Return the names in a comma-separated text."""
    return [name for part in text.split(",") if (name := part.strip())]


def did_you_mean(value: Any, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name: similar known names, or a full stop."""
    close = difflib.get_close_matches(str(value), list(known), n=3)
    return f": did you mean {' or '.join(close)}?" if close else "."
