"""What is said of a verdict: why, where that stands, and the command that brings the file up to date."""

from __future__ import annotations

import shlex

from pytest_headswap.expectations.entry import Entry
from pytest_headswap.expectations.judge import Seen, Verdict


def told(verdict: Verdict, seen: Seen, command: str, file: str) -> str:
    """A verdict in words.

    Args:
        verdict: any but a plain one.
        seen: what was found.
        command: what repeats the test.
        file: the file or folder of expectations, as it was typed.
    """
    if verdict.kind == "expected":
        return "; ".join(dict.fromkeys(_reason(entry) for entry in verdict.entries))
    found = f"{seen.outcome} [{seen.code}]" if seen.code else seen.outcome
    lines = []
    if verdict.kind == "passes":
        lines = [f"passes, where {_told(entry)}" for entry in verdict.entries]
    elif verdict.kind == "differs":
        lines = [f"is {found}, where {_told(entry)}" for entry in verdict.entries]
    elif verdict.kind == "unlisted":
        lines = [f"is {found}, which {file} does not expect, and skips have to be stated there (strict_skips)"]
    return "\n".join([*lines, f"Fix the file with: {fix_command(command, file)}"])


def fix_command(command: str, file: str) -> str:
    """The command that brings the file up to date."""
    return f"{command} {shlex.quote(f'--headswap-expectations={file}')} --headswap-update-expectations"


def _told(entry: Entry) -> str:
    return f"{entry.where} expects {entry.told()}: {_reason(entry)}"


def _reason(entry: Entry) -> str:
    return " ".join(entry.reason.split())
