"""Read the journals of shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

import msgspec

from pytest_headswap.results.journal import JournalError, JournalHeader, read_journal
from pytest_headswap.results.result import Result


class _Selection(TypedDict):
    models: int
    digest: str


class _ShardOptions(TypedDict):
    """The options that the header of a shard needs to be merged."""

    shard: Annotated[str, msgspec.Meta(pattern=r"^\d+/\d+$")]
    checks: list[str]
    part: dict[str, list[str]]
    selection: dict[str, _Selection]


class MergeError(Exception):
    """Journals cannot be merged; `problems` has one sentence for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class ShardJournal:
    """The journal of a shard."""

    path: Path
    header: JournalHeader
    results: list[Result]
    number: int
    count: int

    @property
    def name(self) -> str:
        return f"shard {self.number}/{self.count} ({self.path})"

    @property
    def part(self) -> Iterator[tuple[str, str]]:
        return ((zoo, name) for zoo, names in self.header.options["part"].items() for name in names)

    @property
    def selected_tests(self) -> Iterator[tuple[str, str, str]]:
        return ((zoo, model, check) for zoo, model in self.part for check in self.header.options["checks"])


def read_shards(folders: Sequence[Path]) -> tuple[list[ShardJournal], list[str]]:
    """Return the shards that can be read, and sentences about those that cannot."""
    shards: list[ShardJournal] = []
    unreadable: list[str] = []
    for folder in folders:
        try:
            shards.append(_read(folder))
        except JournalError as error:
            unreadable.append(str(error))
    return shards, unreadable


def _read(folder: Path) -> ShardJournal:
    header, results = read_journal(folder)
    try:
        options = msgspec.convert(header.options, _ShardOptions)
    except msgspec.ValidationError as error:
        problem = f"{folder} is not the journal of a shard: make it with --headswap-shard ({error})"
        raise MergeError([problem]) from error
    number, _, count = options["shard"].partition("/")
    return ShardJournal(folder, header, results, int(number), int(count))
