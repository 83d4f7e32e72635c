"""Merge the journals of shards, and verify that they are parts of one run and complete.

Each shard's header holds its number, the names of its models, and a digest of the whole selection. Missing parts can
therefore be named even if a machine died, and parts of different runs are not merged.

Results stay on disk: each journal is read once to verify it, and again when the merged one is written.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_headswap._text import join_first
from pytest_headswap.results.journal import JournalHeader
from pytest_headswap.results.result import Result
from pytest_headswap.results.shard_journals import MergeError, ShardJournal, describe_keys, merged_order, read_shards
from pytest_headswap.results.writer import JournalWriter

_OF_SHARD = ("shard", "part", "selection")


def shard_options(
    shard: str, part: Mapping[str, Sequence[str]], selected: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return the options that only the header of a shard has: its number, its models, and a digest of the selection."""
    return {
        "shard": shard,
        "part": {zoo: list(names) for zoo, names in part.items()},
        "selection": {zoo: _selection(names) for zoo, names in selected.items()},
    }


def _selection(names: Iterable[str]) -> dict[str, Any]:
    text = json.dumps(selection := sorted(names))
    return {"models": len(selection), "digest": hashlib.sha256(text.encode()).hexdigest()}


@dataclass(frozen=True)
class Merged:
    """Several journals combined."""

    header: JournalHeader
    count: int
    """The number of results."""

    missing: tuple[str, ...]
    """Sentences about what is missing; empty if the journal is complete."""

    read: Callable[[], Iterator[Result]]
    """Reads the results from the journals, in the order of the merged one."""

    def write(self, folder: Path) -> Path:
        """Write the journal; return its path.

        Raises:
            JournalError: the journal cannot be written.
        """
        with JournalWriter(folder, self.header) as writer:
            for result in self.read():
                writer.write(result)
        return writer.path


@dataclass(frozen=True)
class MissingPart:
    """A shard that is missing, or that lacks results.

    Attributes:
        shard: its number, such as `2/8`.
        options: the options of the run.
        folder: its report folder, if it lacks results; None if it is missing.
    """

    shard: str
    options: Mapping[str, Any]
    folder: Path | None


def missing_parts(folders: Sequence[Path]) -> list[MissingPart]:
    """Return the shards of a run that are missing or lack results. A journal that cannot be read is missing.

    Raises:
        MergeError: no journal can be read, or they do not belong to one run.
    """
    shards, problems = read_shards(folders)
    if not shards:
        raise MergeError(problems or ["there is nothing to merge"])
    if wrong := [*_differences(shards), *_duplicates(shards)]:
        raise MergeError(wrong)
    by_number = {shard.number: shard for shard in shards}
    count, options = shards[0].count, _run_options(shards[0].header)
    parts = []
    for number in range(1, count + 1):
        shard = by_number.get(number)
        if shard is None:
            parts.append(MissingPart(f"{number}/{count}", options, None))
        elif shard.lacks:
            folder = shard.path if shard.path.is_dir() else shard.path.parent
            parts.append(MissingPart(f"{number}/{count}", options, folder))
    return parts


def merge(folders: Sequence[Path], *, allow_missing: bool = False) -> Merged:
    """Merge the journals of all shards of a run.

    Args:
        folders: the report folder of each shard, or the journal itself.
        allow_missing: merge the shards that exist. The result and its header state what is missing.

    Raises:
        MergeError: the journals do not belong to one run, contain duplicates, or are incomplete.
    """
    shards, missing = read_shards(folders)
    if not shards:
        raise MergeError(missing or ["there is nothing to merge"])
    if wrong := [*_differences(shards), *_duplicates(shards)]:
        raise MergeError(wrong)
    missing += _missing(shards)
    if missing and not allow_missing:
        raise MergeError(missing)
    shards.sort(key=lambda shard: shard.number)
    first = shards[0].header
    header = merged_header(
        first.versions,
        {key: value for key, value in first.options.items() if key not in _OF_SHARD},
        [shard.header for shard in shards],
        missing,
        {
            "selection": first.options["selection"],
            "machines": [
                {"shard": f"{shard.number}/{shard.count}", "results": len(shard.places), **origin(shard.header)}
                for shard in shards
            ],
        },
    )
    code: dict[str, dict[str, str]] = {}
    for shard in shards:
        for zoo, parts in shard.header.code.items():
            code.setdefault(zoo, {}).update(parts)
    return Merged(
        replace(header, code=code, zoos=first.zoos),
        sum(len(shard.places) for shard in shards),
        tuple(missing),
        lambda: heapq.merge(*(shard.results for shard in shards), key=merged_order(first)),
    )


def _differences(shards: Sequence[ShardJournal]) -> Iterator[str]:
    """Yield the reasons why a shard belongs to another run than the first one."""
    first = shards[0]
    for shard in shards[1:]:
        if shard.count != first.count:
            yield f"{shard.name} and {first.name} are shards of different runs: their counts differ"
        for what, reference, candidate in (
            ("versions", first.header.versions, shard.header.versions),
            ("options", _run_options(first.header), _run_options(shard.header)),
        ):
            for key in sorted(reference.keys() | candidate.keys()):
                if reference.get(key) != candidate.get(key):
                    sentence = f"{candidate.get(key)!r} here, {reference.get(key)!r} there"
                    sentence = "other models were selected" if key == "selection" else f"{key}: {sentence}"
                    yield f"{shard.name} has other {what} than {first.name}: {sentence}"
        for zoo in sorted(first.header.code.keys() & shard.header.code.keys()):
            there, here = first.header.code[zoo], shard.header.code[zoo]  # each has only the code of its models
            if changed := sorted(name for name in there.keys() & here.keys() if there[name] != here[name]):
                yield f"{shard.name} has other code of {zoo} than {first.name}: {join_first(changed)}"


def _run_options(header: JournalHeader) -> dict[str, Any]:
    """Return the options that all shards of a run share."""
    return {key: value for key, value in header.options.items() if key not in ("shard", "part")}


def _duplicates(shards: Sequence[ShardJournal]) -> Iterator[str]:
    """Yield sentences about shards, models and results that occur twice, and about results of other models."""
    numbers = Counter(shard.number for shard in shards)
    for number, times in numbers.items():
        if times > 1:
            yield given_twice(
                f"shard {number}/{shards[0].count}", [shard.path for shard in shards if shard.number == number]
            )
    if max(numbers.values()) == 1:
        models = Counter(model for shard in shards for model in shard.part)
        yield from describe_keys(
            "several shards have", (model for model, times in models.items() if times > 1), "model"
        )
    for shard in shards:
        yield from shard.wrong


def _missing(shards: Sequence[ShardJournal]) -> Iterator[str]:
    count = shards[0].count
    absent = sorted(set(range(1, count + 1)) - {shard.number for shard in shards})
    for number in absent:
        yield f"shard {number}/{count} is missing"
    for shard in shards:
        yield from shard.lacks
    if absent:
        return
    models = [model for shard in shards for model in shard.part]
    for zoo, selection in shards[0].header.options["selection"].items():
        names = [name for of_zoo, name in models if of_zoo == zoo]
        if _selection(names) != selection:
            expected = selection["models"]
            yield f"the shards have {len(names)} models of {zoo}, which are not the {expected} that were selected"


def merged_header(
    versions: Mapping[str, str],
    options: Mapping[str, Any],
    headers: Sequence[JournalHeader],
    missing: Sequence[str],
    details: Mapping[str, Any],
) -> JournalHeader:
    """Return the header of a journal that was merged from journals with these headers."""
    return JournalHeader(
        versions,
        options,
        python=", ".join(sorted({header.python for header in headers})),
        platform=", ".join(sorted({header.platform for header in headers})),
        started=min(header.started for header in headers),
        devices=list(dict.fromkeys(device for header in headers for device in header.devices)),
        merged={"complete": not missing, "missing": list(missing), **details},
    )


def origin(header: JournalHeader) -> dict[str, str]:
    """Return where and when a journal was written, for the header of a merged journal."""
    devices = {"devices": ", ".join(header.devices)} if header.devices else {}
    return {"python": header.python, "platform": header.platform, "started": header.started, **devices}


def given_twice(name: str, paths: Sequence[Path]) -> str:
    """Return a sentence about a part that several journals hold."""
    return f"{name} was given {len(paths)} times: {' and '.join(map(str, paths))}"
