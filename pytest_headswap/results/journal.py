"""The journal: `results.jsonl`, one header line for the run, then one line per result, written as results come.

All reports are built from this file, so an interrupted run loses no finished result. The header lists the selected
results, so that reports of an interrupted run can state what is missing.

    {"headswap_journal": 1, "versions": {"torch": "2.8.0", ...}, "options": {...}, "python": ..., "platform": ...}
    {"zoo": "timm", "model": "resnet18", "check": "output_shape", "outcome": "passed", ...}
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pytest_headswap.results.result import Result

JOURNAL_NAME = "results.jsonl"
_FORMAT = 1
_FORMAT_KEY = "headswap_journal"


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
    merged: Mapping[str, Any] = field(default_factory=dict)
    """For a merged journal: whether it is whole, what is missing, and the machines."""

    selected: Mapping[str, Any] = field(default_factory=dict)
    """The selected checks of each model, by zoo; empty if not known."""

    def to_json(self) -> dict[str, Any]:
        """Return a dict of plain JSON types, with the version of the format first."""
        return {
            _FORMAT_KEY: _FORMAT,
            "versions": dict(self.versions),
            "options": dict(self.options),
            "python": self.python,
            "platform": self.platform,
            "started": self.started,
            **({"merged": dict(self.merged)} if self.merged else {}),
            **({"selected": dict(self.selected)} if self.selected else {}),
        }


def read_journal(path: str | Path) -> tuple[JournalHeader, list[Result]]:
    """Read a journal. A last line that was cut off by a crash is ignored.

    Args:
        path: the file or its folder.

    Returns:
        The header, and the results in the order in which they were written.

    Raises:
        JournalError: the file cannot be read or is not a journal.
    """
    path = Path(path)
    if path.is_dir():
        path = path / JOURNAL_NAME
    header, results = None, []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break  # cut off: a complete line ends with a newline
                if header is None:
                    header = _read_header(path, line.decode())
                else:
                    results.append(_read_result(path, number, line.decode()))
    except (OSError, UnicodeDecodeError) as error:
        raise JournalError(f"cannot read the journal {path}: {error}") from error
    if header is None:
        raise JournalError(f"{path} is no journal of headswap: it has no complete line")
    return header, results


def _read_result(path: Path, number: int, line: str) -> Result:
    try:
        return Result.from_json(_object(line))
    except (ValueError, TypeError) as error:
        raise JournalError(f"{path}, line {number}: not a result ({error})") from error


def _read_header(path: Path, line: str) -> JournalHeader:
    try:
        data = _object(line)
    except ValueError as error:
        raise JournalError(f"{path}, line 1: not the header of a headswap journal ({error})") from error
    if _FORMAT_KEY not in data:
        raise JournalError(f"{path}, line 1: not the header of a headswap journal (it has no {_FORMAT_KEY!r})")
    if data[_FORMAT_KEY] != _FORMAT:
        raise JournalError(
            f"{path} has format {data[_FORMAT_KEY]!r}, and this version reads format {_FORMAT}: "
            "read it with the version of pytest-headswap that wrote it"
        )
    if wrong := [name for name, fits in _HEADER.items() if name in data and not fits(data[name])]:
        raise JournalError(f"{path}, line 1: not the header of a headswap journal ({', '.join(wrong)} cannot be read)")
    return JournalHeader(
        data.get("versions", {}),
        data.get("options", {}),
        data.get("python", ""),
        data.get("platform", ""),
        data.get("started", ""),
        data.get("merged", {}),
        data.get("selected", {}),
    )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_versions(value: Any) -> bool:
    return isinstance(value, list) and all(_is_mapping(item) and _is_text(item.get("version")) for item in value)


def _is_selection(value: Any) -> bool:
    """Return whether a value has the form that `missing.selection_of` returns."""
    groups = [group for of_zoo in value.values() if isinstance(of_zoo, list) for group in of_zoo]
    return all(isinstance(of_zoo, list) for of_zoo in value.values()) and all(
        _is_mapping(group) and _are_texts(group.get("models")) and _are_texts(group.get("checks")) for group in groups
    )


_HEADER: dict[str, Callable[[Any], bool]] = {
    "versions": lambda value: _is_mapping(value) and all(map(_is_text, value.values())),
    "options": lambda value: _is_mapping(value) and _are_texts(value.get("checks", [])),
    "python": _is_text,
    "platform": _is_text,
    "started": _is_text,
    "merged": lambda value: (
        _is_mapping(value) and _are_versions(value.get("versions", [])) and _are_texts(value.get("missing", []))
    ),
    "selected": lambda value: _is_mapping(value) and _is_selection(value),
}
"""Validators of the header fields that reports rely on."""


def _object(line: str) -> dict[str, Any]:
    data = json.loads(line)
    if not isinstance(data, dict):
        raise ValueError(f"expected a JSON object, found {type(data).__name__}")
    return data
