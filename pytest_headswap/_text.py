"""Format text for messages, reports and file names.

Names and messages come from arbitrary sources. They are escaped so that they can neither hide nor break other text.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pytest_headswap._links import page

_UNSAFE = re.compile(r"[^a-z0-9._-]+")


def escape_unprintable(text: str, *, keep_line_breaks: bool = False) -> str:
    """Return the text with unprintable characters escaped.

    These are control characters, text direction marks, lone surrogates and, unless `keep_line_breaks` is true, line
    breaks.
    """
    if text.isprintable():
        return text
    kept = "\n" if keep_line_breaks else ""
    return "".join(char if char.isprintable() or char in kept else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def single_line(text: str) -> str:
    """Return a message on one line."""
    return escape_unprintable(" ".join(text.split()))


def truncate(text: str, max_length: int) -> str:
    """Return the text, cut at the end if it is longer than `max_length` characters."""
    return text if len(text) <= max_length else text[: max_length - 1].rstrip() + "…"


def truncate_left(text: str, max_length: int) -> str:
    """Return the text, cut at the start if it is longer than `max_length` characters. Use it for paths."""
    return text if len(text) <= max_length else "…" + text[1 - max_length :]


def file_name(*names: str) -> str:
    """Return an HTML file name for these names.

    It is readable, unique, stable between runs, and valid on every file system.
    """
    # File systems may ignore case or accents; the digest keeps such names apart.
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    readable = _UNSAFE.sub("-", names[-1].lower()).strip(".-")[:60].rstrip(".-")
    return f"{readable}-{digest}.html" if readable else f"model-{digest}.html"


def error_page(reason: str) -> str:
    """Return the page that explains a reason code. Codes of users' own checks lead to the top of the page."""
    return page("errors", reason if reason.isascii() and reason.isidentifier() else "")


def pluralize(number: int, unit: str, plural: str = "") -> str:
    """Return a number with its unit: `1 model`, `1,371 models`."""
    return f"{number:,} {unit if number == 1 else plural or unit + 's'}"


def format_duration(seconds: float) -> str:
    """Return a duration as text: `20 ms`, `0.3 s`, `42 s`, `5 min 10 s`, `2 h 5 min`."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    minutes, rest = divmod(rounded, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def format_bytes(count: int) -> str:
    """Return a number of bytes as text: `512 MiB`, `2.5 GiB`."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def join_first(names: Sequence[str], max_listed: int = 5) -> str:
    """Return the first few names, and the number of names left out."""
    more = f" and {len(names) - max_listed:,} more" if len(names) > max_listed else ""
    return ", ".join(names[:max_listed]) + more


def split_commas(text: str) -> list[str]:
    """Return the names in a comma-separated text."""
    return [name for part in text.split(",") if (name := part.strip())]


def did_you_mean(value: Any, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return the end of a sentence about an unknown name: similar known names, or a full stop.

    `cutoff` is the least similarity, from 0 to 1, as in `difflib.get_close_matches`.
    """
    close = difflib.get_close_matches(str(value), list(known), n=3, cutoff=cutoff)
    return f": did you mean {' or '.join(close)}?" if close else "."
