"""Parse an expectations file, and delete or append whole entries. All other lines stay byte for byte."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Array, Comment, String, Table, Whitespace

from pytest_headswap._text import did_you_mean
from pytest_headswap.expectations.entry import Entry, EntryError, read_entry

ENTRY = "expect"
STRICT_SKIPS = "strict_skips"
_MAX_LINE = 100  # characters; a longer list is written with one name per line


class DocumentError(ValueError):
    """An expectations file is invalid; the message names the file and the line."""


@dataclass(frozen=True)
class Document:
    """An expectations file.

    Attributes:
        path: the file, as shown in messages.
        zoo: the zoo of entries that name none.
        text: the whole text.
        strict_skips: whether every skip must be listed.
        entries: in the order of the file.
    """

    path: Path
    zoo: str
    text: str
    strict_skips: bool
    entries: tuple[Entry, ...]

    def edit(self, deleted: Collection[Entry], added: Sequence[Mapping[str, str | list[str]]]) -> Document:
        """Delete entries, each with the comment right above it, and append new ones.

        Args:
            deleted: entries of this document.
            added: the keys and values of new entries.
        """
        if not deleted and not added:
            return self
        newline = "\r\n" if "\r\n" in self.text else "\n"
        text = self.text if self.text.endswith("\n") or not self.text else self.text + newline
        lines = text.split("\n")[:-1]
        for number, entry in reversed(list(enumerate(self.entries))):
            if entry in deleted:
                _delete(lines, entry, first=self.entries[number - 1].last_line if number else 0)
        text = "".join(f"{line}\n" for line in lines)
        for values in added:
            text += (newline if text else "") + _format_entry(values).replace("\n", newline)
        return parse_document(text, self.path, self.zoo)


def parse_document(text: str, path: Path, zoo: str) -> Document:
    """Parse the text of a file.

    Args:
        text: the text.
        path: the file, as shown in messages.
        zoo: the zoo of entries that name none.

    Raises:
        DocumentError: the file contains something invalid.
    """
    whole = text if text.endswith("\n") else f"{text}\n"
    try:
        parsed = tomlkit.parse(whole)
    except TOMLKitError as error:
        raise DocumentError(f"{path}: invalid TOML: {error}") from error
    keys = (STRICT_SKIPS, ENTRY)
    for key in parsed:
        if key not in keys:
            raise DocumentError(
                f"{path}: unknown key {key!r}{did_you_mean(key, keys)} A file may begin with {STRICT_SKIPS} = true, "
                f"and then holds entries, each a table that begins with [[{ENTRY}]]"
            )
    strict = parsed.unwrap().get(STRICT_SKIPS, False)
    if not isinstance(strict, bool):
        raise DocumentError(f"{path}: {STRICT_SKIPS} must be true or false, not {strict!r}")
    tables = parsed.get(ENTRY, AoT([]))
    if not isinstance(tables, AoT):
        raise DocumentError(f"{path}: write each entry as a table that begins with [[{ENTRY}]]")
    lengths = [_count_lines(table) for table in tables.body]
    line = whole.count("\n") + 1 - sum(lengths)  # everything after the first entry belongs to an entry
    entries = []
    for table, length in zip(tables.body, lengths, strict=True):
        last_line = line + length - 1 - _count_trailing_lines(table)
        try:
            entries.append(read_entry(table.unwrap(), zoo, path, line, last_line))
        except EntryError as error:
            raise DocumentError(f"{path}, line {line}: {error}") from error
        line += length
    return Document(path, zoo, text, strict, tuple(entries))


def _count_lines(table: Table) -> int:
    """Return the number of lines from the header of a table to the next header or the end of the file."""
    return (table.trivia.trail + table.as_string()).count("\n")


def _count_trailing_lines(table: Table) -> int:
    """Return the number of comments and blank lines after the last value of a table."""
    count = 0
    for _, item in reversed(table.value.body):
        if isinstance(item, Table):
            return count + _count_trailing_lines(item)
        if not isinstance(item, (Comment, Whitespace)):
            break
        count += item.as_string().count("\n")
    return count


def _delete(lines: list[str], entry: Entry, first: int) -> None:
    """Delete an entry, the comment right above it, and blank lines; `first` is the first line that may be deleted."""
    start, end = entry.line - 1, entry.last_line
    while start > first and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    while end < len(lines) and not lines[end].strip():
        end += 1
    while end == len(lines) and start > first and not lines[start - 1].strip():
        start -= 1
    del lines[start:end]


def _format_entry(values: Mapping[str, str | list[str]]) -> str:
    table = tomlkit.table()
    for key, value in values.items():
        table.append(key, _format_text(value) if isinstance(value, str) else _format_list(value))
    return f"[[{ENTRY}]]\n{table.as_string()}"


def _format_list(values: Sequence[str]) -> Array | String:
    if len(values) == 1:
        return _format_text(values[0])
    array = tomlkit.array()
    array.extend([_format_text(value) for value in values])
    array.multiline(len(array.as_string()) > _MAX_LINE)
    return array


def _format_text(text: str) -> String:
    """Return a TOML string, as a literal if it contains backslashes."""
    plain = text.isprintable() and "'" not in text
    return tomlkit.string(text, literal="\\" in text and plain)
