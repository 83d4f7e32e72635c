"""A run as its journal tells it: when it started, what it covers, and what it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_headswap._check_names import CHECK_NAMES
from pytest_headswap._text import join_first
from pytest_headswap.results.completeness import missing_sentences
from pytest_headswap.results.journal import JournalError, JournalHeader, read_journal
from pytest_headswap.results.result import Result


@dataclass(frozen=True)
class Run:
    """A journal that was read.

    Attributes:
        path: the journal or its folder, as given.
    """

    path: Path
    header: JournalHeader
    results: list[Result]

    @property
    def folder(self) -> Path:
        """Return the report folder."""
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Return sentences about the results that the run should have but lacks."""
        return missing_sentences(self.header, self.results)

    @cached_property
    def limits(self) -> tuple[str, ...]:
        """Return what was left out on purpose: models, shards and default checks; empty if the run covers the zoo."""
        return tuple(_limits(self.header))


def read_run(path: Path, *, needs_results: bool = False) -> Run:
    """Read the journal of a run.

    Args:
        path: the journal or its folder.
        needs_results: refuse a journal without results.

    Raises:
        JournalError: the journal cannot be read, or has no results although it needs some.
    """
    run = Run(path, *read_journal(path))
    if needs_results and not run.results:
        raise JournalError(f"{path} has no results: the run ended before its first check did")
    return run


def parse_start(header: JournalHeader) -> datetime | None:
    """Return when a run started; None if its journal does not say so."""
    try:
        started = datetime.fromisoformat(header.started)
    except ValueError:
        return None
    return started if started.tzinfo is not None else started.replace(tzinfo=timezone.utc)


def _limits(header: JournalHeader) -> Iterator[str]:
    """Yield what was left out. A journal of several versions has the options of each."""
    versions = [item.get("options") for item in header.merged.get("versions", ())]
    options = [header.options, *(of_version for of_version in versions if isinstance(of_version, Mapping))]
    for name, text in (("sample", "a sample of {}"), ("models", "only models {}"), ("shard", "only shard {}")):
        yield from (text.format(value) for value in _values(options, name))
    for checks in _values(options, "checks"):
        if isinstance(checks, list) and (left_out := [name for name in CHECK_NAMES if name not in checks]):
            yield f"without {join_first(left_out, len(CHECK_NAMES))}"


def _values(options: list[Mapping[str, Any]], name: str) -> list[Any]:
    """Return the different values that an option has, without empty ones."""
    found: list[Any] = []
    for of_version in options:
        if (value := of_version.get(name)) and value not in found:
            found.append(value)
    return found
