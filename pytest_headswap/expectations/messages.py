"""Format a verdict: the reason, its location, and the command that updates the file."""

from __future__ import annotations

import shlex

from pytest_headswap.expectations.entry import Entry
from pytest_headswap.expectations.matcher import Verdict
from pytest_headswap.results import Result


def describe(verdict: Verdict, result: Result, file: str) -> str:
    """Return a verdict in words.

    Args:
        verdict: a verdict of any kind but `none`.
        result: the result before expectations are applied.
        file: the expectations file or folder, as typed.
    """
    if verdict.kind == "expected":
        return "; ".join(dict.fromkeys(entry.explanation for entry in verdict.entries))
    if verdict.kind == "ended":
        return "\n".join(
            f"the expectation of {entry.where} ended {entry.until}: {entry.explanation}" for entry in verdict.entries
        )
    outcome = f"{result.outcome} [{result.reason}]" if result.reason else result.outcome
    lines = []
    if verdict.kind == "unexpected_pass":
        lines = [f"passes, but {_expectation(entry)}" for entry in verdict.entries]
    elif verdict.kind == "mismatch":
        lines = [f"is {outcome}, but {_expectation(entry)}" for entry in verdict.entries]
    elif verdict.kind == "unlisted_skip":
        lines = [f"is {outcome}, which {file} does not list, although it must list all skips (strict_skips)"]
    return "\n".join([*lines, f"Fix the file with: {fix_command(result.repro, file)}"])


def fix_command(command: str, file: str) -> str:
    """Return the command that updates the file."""
    return f"{command} {shlex.quote(f'--headswap-expectations={file}')} --headswap-update-expectations"


def _expectation(entry: Entry) -> str:
    return f"{entry.where} expects {entry.describe()}: {entry.explanation}"
