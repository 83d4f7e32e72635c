"""The journal: `results.jsonl`, one header line for the run, then one line per result, written as results come.

All reports are built from this file, so an interrupted run loses no finished result. The header lists the selected
results, so that reports of an interrupted run can state what is missing.

    {"headswap_journal": 1, "versions": {"torch": "2.8.0", ...}, "options": {...}, "python": ..., "platform": ...}
    {"zoo": "timm", "model": "resnet18", "check": "output_shape", "outcome": "passed", ...}
"""

from __future__ import annotations

import json
import math
import os
import platform
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from pytest_headswap.results.result import Result

JOURNAL_NAME = "results.jsonl"
_FORMAT = 1
_BATCH = 16
# texts that many results share; each would hold a copy of its own
_REPEATED = frozenset({"zoo", "model", "check", "outcome", "evidence", "family", "reason", "version", "taken_over"})


class JournalError(Exception):
    """The journal cannot be written or read; the message says which file and what to do."""


@dataclass(frozen=True)
class JournalHeader:
    """The first line of a journal: what the results depend on besides the models."""

    versions: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    python: str = field(default_factory=platform.python_version)
    platform: str = field(default_factory=platform.platform)
    started: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    devices: Sequence[str] = ()
    """The devices for real runs, such as `cuda:0 (NVIDIA H200)`; empty if there are none."""

    merged: Mapping[str, Any] = field(default_factory=dict)
    """For a merged journal: whether it is complete, what is missing, and the machines."""

    selected: Mapping[str, Any] = field(default_factory=dict)
    """The selected checks of each model, by zoo; empty if not known."""

    code: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By zoo, the digest or version of each file and package that defines its models; empty if not known."""

    zoos: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By zoo, the number of all its `architectures`, and the `commits` of its libraries and files where known."""

    def to_json(self) -> dict[str, Any]:
        """Return a dict that `json` can write, with the version of the format first."""
        return {
            "headswap_journal": _FORMAT,
            "versions": dict(self.versions),
            "options": dict(self.options),
            "python": self.python,
            "platform": self.platform,
            "started": self.started,
            **({"devices": list(self.devices)} if self.devices else {}),
            **({"merged": dict(self.merged)} if self.merged else {}),
            **({"selected": dict(self.selected)} if self.selected else {}),
            **({"code": {zoo: dict(parts) for zoo, parts in self.code.items()}} if self.code else {}),
            **({"zoos": {zoo: dict(facts) for zoo, facts in self.zoos.items()}} if self.zoos else {}),
        }


def changed_code(then: JournalHeader, now: JournalHeader, zoo: str) -> list[str]:
    """Return the names of the files and packages of a zoo that have changed, were added or are gone.

    A journal without the code of the zoo, or an older one, tells nothing.
    """
    old, new = then.code.get(zoo, now.code[zoo]), now.code[zoo]
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


class JournalReader:
    """A journal that is read line by line: memory does not grow with the number of results.

    A last line that was cut off by a crash is ignored.

    Args:
        path: the file or its folder.

    Attributes:
        path: the file.
        header: its first line.

    Raises:
        JournalError: the file cannot be read or is not a journal; also raised while results are read.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        with _explained(path):
            self.path = _journal_in(path) if path.is_dir() else path
            if not stat.S_ISREG(self.path.stat().st_mode):  # reading a pipe or a device may never end
                raise JournalError(f"{self.path} is not a headswap journal: it is not a regular file")
            with self.path.open("rb") as file:
                line = file.readline()
        if not line.endswith(b"\n"):
            raise JournalError(f"{self.path} is not a headswap journal: it has no complete line")
        self.header = _read_header(self.path, line)

    def results(self) -> Iterator[Result]:
        """Yield the results in the order in which they were written."""
        return (result for _, result in self.placed())

    def placed(self) -> Iterator[tuple[int, Result]]:
        """Yield the results, each with the place of its line: the number of bytes before it."""
        with _explained(self.path), self.path.open("rb") as file:
            place = len(file.readline())
            for number, line in enumerate(file, start=2):
                if not line.endswith(b"\n"):
                    break  # cut off: a complete line ends with a newline
                yield place, _read_result(f"{self.path}, line {number}", line)
                place += len(line)

    def at(self, places: Sequence[int]) -> Iterator[Result]:
        """Yield the results at these places. The file is not kept open, since a run may have thousands of shards."""
        for start in range(0, len(places), _BATCH):
            with _explained(self.path), self.path.open("rb") as file:
                results = []
                for place in places[start : start + _BATCH]:
                    file.seek(place)
                    results.append(_read_result(f"{self.path}, byte {place}", file.readline()))
            yield from results


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JournalError(f"cannot read the journal {path}: {error}") from error


def read_journal(path: str | Path) -> tuple[JournalHeader, list[Result]]:
    """Read a whole journal. A last line that was cut off by a crash is ignored.

    Args:
        path: the file or its folder.

    Returns:
        The header, and the results in the order in which they were written.

    Raises:
        JournalError: the file cannot be read or is not a journal.
    """
    journal = JournalReader(path)
    return journal.header, list(journal.results())


def _journal_in(folder: Path) -> Path:
    """Return the journal in a report folder. It must not be a symbolic link out of the folder."""
    path = folder / JOURNAL_NAME
    real = Path(os.path.realpath(path))  # unlike resolve(), it does not raise for a loop
    if path.is_symlink() and not real.is_relative_to(os.path.realpath(folder)):
        raise JournalError(f"{path} is a symbolic link out of the report folder: pass {real} if that is the journal")
    return path


class _Format(TypedDict):
    headswap_journal: int


class _Options(TypedDict, total=False):
    checks: list[str]


class _Part(TypedDict, total=False):
    results: int


class _Version(_Part):
    version: str


class _Merged(TypedDict, total=False):
    missing: list[str]
    machines: list[_Part]
    versions: list[_Version]


class _SelectedGroup(TypedDict):
    models: list[str]
    checks: list[str]


class _ZooFacts(TypedDict, total=False):
    architectures: int
    commits: dict[str, str]


class _Header(TypedDict, total=False):
    """The types of the header fields that reports rely on."""

    versions: dict[str, str]
    options: _Options
    python: str
    platform: str
    started: str
    devices: list[str]
    merged: _Merged
    selected: dict[str, list[_SelectedGroup]]
    code: dict[str, dict[str, str]]
    zoos: dict[str, _ZooFacts]


def _read_header(path: Path, line: bytes) -> JournalHeader:
    try:
        data = _parse(line)
        found = msgspec.convert(data, _Format)["headswap_journal"]
        if found == _FORMAT:
            msgspec.convert(data, _Header)
    except (ValueError, RecursionError) as error:
        raise JournalError(f"{path}, line 1: not the header of a headswap journal ({error})") from error
    if found != _FORMAT:
        raise JournalError(
            f"{path} has format {found}, and this version reads format {_FORMAT}: "
            "read it with the version of pytest-headswap that wrote it"
        )
    unknown = {"python": "", "platform": "", "started": ""}
    known = {item.name: data[item.name] for item in fields(JournalHeader) if item.name in data}
    return JournalHeader(**{**unknown, **known})


def _read_result(where: str, line: bytes) -> Result:
    try:
        data = _parse(line)
        if isinstance(data, dict):
            for name in _REPEATED & data.keys():
                if isinstance(data[name], str):
                    data[name] = sys.intern(data[name])
        return Result.from_json(data)
    except (ValueError, RecursionError) as error:
        raise JournalError(f"{where}: not a result ({error})") from error


def _parse(line: bytes) -> Any:
    # not msgspec's parser: it refuses lone surrogates, which may occur in the name of a model
    return json.loads(line.decode(), parse_float=_finite, parse_constant=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number
