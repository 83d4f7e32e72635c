"""Print errors of all commands."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


def fail(code: int, *messages: str) -> int:
    """Print error messages to stderr. Return the exit code."""
    for message in messages:
        Console(stderr=True, soft_wrap=True, highlight=False).print(Text(f"headswap: {message}"))
    return code
