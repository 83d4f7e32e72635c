"""Merge the journals of several versions, so that reports show a matrix of architecture by version.

`headswap merge OUT DIR... --by-version-of torch` distinguishes runs by the version of torch in the headers of their
journals. A run is one journal, or the journals of all its shards. In the merged journal each result states its version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pytest_headswap.results.completeness import missing_sentences
from pytest_headswap.results.journal import JournalError, JournalReader
from pytest_headswap.results.merge import Merged, given_twice, merge, merged_header, origin
from pytest_headswap.results.shard_journals import MergeError


class _Journal(NamedTuple):
    folder: Path
    reader: JournalReader
    results: int


def merge_versions(folders: Sequence[Path], library: str, *, allow_missing: bool = False) -> Merged:
    """Merge the journals of runs with different versions.

    Args:
        folders: the report folder of each run or shard, or the journal itself.
        library: the distribution whose version distinguishes the runs, such as `torch`; or `python`.
        allow_missing: merge the shards that exist.

    Raises:
        MergeError: a journal cannot be read or does not state the version, a version occurs twice, all versions are
            the same, or shards do not fit together.
    """
    groups: dict[str, list[_Journal]] = {}
    problems: list[str] = []
    for folder in folders:
        try:
            reader = JournalReader(folder)
            journal = _Journal(folder, reader, sum(1 for _ in reader.results()))
        except JournalError as error:
            problems.append(str(error))
            continue
        header = reader.header
        version = header.python if library == "python" else header.versions.get(library, "")
        if "versions" in header.merged:
            problems.append(f"{folder} was merged from several versions: pass the journals of these versions instead")
        elif not version:
            known = ", ".join(sorted({*header.versions, "python"}))
            problems.append(f"{folder} does not state a version of {library}. It states those of {known}")
        else:
            groups.setdefault(f"{library} {version}", []).append(journal)
    for version, runs in groups.items():
        if len(runs) > 1 and any("shard" not in run.reader.header.options for run in runs):
            problems.append(given_twice(version, [run.folder for run in runs]))
    if not problems and len(groups) < 2:
        problems.append(f"all journals have {next(iter(groups))}: there is nothing to compare")
    if problems:
        raise MergeError(problems)
    return _as_one(
        {version: _one_run(groups[version], allow_missing) for version in sorted(groups, key=_natural)}, library
    )


def _natural(version: str) -> list[tuple[int, str]]:
    """Return a sort key that puts 2.10 after 2.9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", version)]


def _one_run(journals: Sequence[_Journal], allow_missing: bool) -> Merged:
    (_, reader, results), *more = journals
    if more or "shard" in reader.header.options:
        return merge([journal.folder for journal in journals], allow_missing=allow_missing)
    return Merged(reader.header, results, missing_sentences(reader.header, reader.results()), reader.results)


def _as_one(runs: Mapping[str, Merged], library: str) -> Merged:
    headers = [run.header for run in runs.values()]
    missing = tuple(f"{version}: {sentence}" for version, run in runs.items() for sentence in run.missing)
    checks = dict.fromkeys(check for header in headers for check in header.options.get("checks", ()))
    header = merged_header(
        _shared([header.versions for header in headers]),
        {**_shared([header.options for header in headers]), "checks": list(checks)},
        headers,
        missing,
        {
            "by": library,
            "versions": [
                {
                    "version": version,
                    "results": run.count,
                    "versions": dict(run.header.versions),
                    "options": dict(run.header.options),
                    "zoos": dict(run.header.zoos),
                    **origin(run.header),
                }
                for version, run in runs.items()
            ],
        },
    )
    header = replace(header, zoos=_shared([header.zoos for header in headers]))
    return Merged(
        header,
        sum(run.count for run in runs.values()),
        missing,
        lambda: (replace(item, version=version) for version, run in runs.items() for item in run.read()),
    )


def _shared(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entries that all mappings share."""
    first, *others = mappings
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
