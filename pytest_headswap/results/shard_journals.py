"""Read the journals of shards, one at a time: memory grows with the largest shard, and by 8 bytes for each result."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypedDict

import msgspec

from pytest_headswap._text import join_first, pluralize
from pytest_headswap.results.journal import JournalError, JournalHeader, JournalReader
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
    """The journal of a shard. It stays on disk: only the places of its lines are kept.

    Attributes:
        path: the journal or its folder, as given.
        header: its header, without the selection, which the options `part` and `checks` hold too.
        places: the place of each line, in the order of a merged journal.
        wrong: sentences about repeated results, and about results that the shard did not select.
        lacks: a sentence about results that are missing; empty if it is complete.
    """

    path: Path
    header: JournalHeader
    number: int
    count: int
    reader: JournalReader
    places: Sequence[int]
    wrong: tuple[str, ...]
    lacks: tuple[str, ...]

    @property
    def name(self) -> str:
        return _name(self.number, self.count, self.path)

    @property
    def part(self) -> Iterator[tuple[str, str]]:
        return _part(self.header)

    @property
    def results(self) -> Iterator[Result]:
        """Return the results, in the order of a merged journal."""
        return self.reader.at(self.places)


def merged_order(header: JournalHeader) -> Callable[[Result], tuple[str, str, int]]:
    """Return the sort key of results in a merged journal: by name, and the checks in the order of the run."""
    order = {check: position for position, check in enumerate(header.options["checks"])}
    return lambda result: (result.zoo, result.model, order.get(result.check, len(order)))


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
    reader = JournalReader(folder)
    header = replace(reader.header, selected={})
    try:
        options = msgspec.convert(header.options, _ShardOptions)
    except msgspec.ValidationError as error:
        problem = f"{folder} is not the journal of a shard: make it with --headswap-shard ({error})"
        raise MergeError([problem]) from error
    number, count = map(int, options["shard"].split("/"))
    name, key = _name(number, count, folder), merged_order(header)
    lines = sorted((key(result), result.check, place) for place, result in reader.placed())
    found = Counter((zoo, model, check) for (zoo, model, _), check, _ in lines)
    selected = {(zoo, model, check): None for zoo, model in _part(header) for check in options["checks"]}
    wrong = (
        *describe_keys(f"{name} repeats", (test for test, times in found.items() if times > 1)),
        *describe_keys(f"{name} holds", found.keys() - selected.keys(), "result", "that it did not select"),
    )
    lacks = tuple(describe_keys(f"{name} lacks", (test for test in selected if test not in found)))
    places = array("Q", (place for _, _, place in lines))
    return ShardJournal(folder, header, number, count, reader, places, wrong, lacks)


def _name(number: int, count: int, path: Path) -> str:
    return f"shard {number}/{count} ({path})"


def _part(header: JournalHeader) -> Iterator[tuple[str, str]]:
    return ((zoo, name) for zoo, names in header.options["part"].items() for name in names)


def describe_keys(verb: str, keys: Iterable[tuple[str, ...]], unit: str = "result", end: str = "") -> Iterator[str]:
    """Yield a sentence with the first few keys, if there are any."""
    names = ["::".join(key) for key in keys]
    if names:
        yield f"{verb} {pluralize(len(names), unit)}{end and ' '}{end}: {join_first(names)}"
