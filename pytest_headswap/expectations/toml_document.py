"""An expectations file as editable text: an edit leaves everything else as it was written.

The text consists of a head and, for each entry, the lines before it and the entry itself:

    # What we know of timm                     head
    strict_skips = true

    [[expect]]                                 part 1: text
    models = "convit_*"

    # seen only with torch 2.6                 part 2: lead
    [[expect]]                                 part 2: text
    ...
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import ParseError, TOMLKitError
from tomlkit.items import AoT, Array, String

from pytest_headswap.expectations.entry import KEYS, Entry, EntryError, read_entry

ENTRY = "expect"
STRICT_SKIPS = "strict_skips"
_HEADER = re.compile(rf"^[ \t]*\[\[[ \t]*{ENTRY}[ \t]*\]\]", re.MULTILINE)
_LINE = 100  # a longer list is written with one name per line


class DocumentError(ValueError):
    """An expectations file is invalid; the message names the file and the line."""


@dataclass
class EntryText:
    """One entry: its text, and the blank lines and comments before it."""

    leading: str
    text: str
    entry: Entry


@dataclass
class Document:
    """An expectations file. `zoo` is the default for entries that name none."""

    path: Path
    zoo: str
    header: str = ""
    footer: str = ""
    strict_skips: bool = False
    parts: list[EntryText] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Return the whole text."""
        return self.header + "".join(part.leading + part.text for part in self.parts) + self.footer

    def change(self, part: EntryText, **patterns: Sequence[str]) -> None:
        """Replace the `models`, the `checks` or both of an entry."""
        parsed = tomlkit.parse(part.text)
        for key, values in patterns.items():
            _set(_table(parsed), key, list(values))
        part.text = parsed.as_string()
        part.entry = read_entry(_table(parsed).unwrap(), self.zoo, self.path, part.entry.line)

    def copy(self, part: EntryText, **patterns: Sequence[str]) -> None:
        """Insert after an entry a copy with other models, checks or both."""
        self._end_with_newline(part)
        copied = EntryText(self._newline, part.text, part.entry)
        self.parts.insert(self._index(part) + 1, copied)
        self.change(copied, **patterns)

    def remove(self, part: EntryText) -> None:
        """Remove an entry; the comments before it stay."""
        place = self._index(part)
        lead = part.leading if part.leading.strip() else ""
        del self.parts[place]
        if place < len(self.parts):
            self.parts[place].leading = lead + self.parts[place].leading
        else:
            self.footer = lead + self.footer

    def add(self, **values: Any) -> None:
        """Append an entry."""
        table = tomlkit.table()
        for key in KEYS:
            if key in ("models", "checks") and key in values:
                table.append(key, _value_of(values[key]))
            elif key in values:
                table.append(key, _text_item(values[key]))
        written = tomlkit.document()
        written.append(ENTRY, tomlkit.aot())
        written[ENTRY].append(table)
        text = written.as_string().replace("\n", self._newline)
        if self.parts:
            self._end_with_newline(self.parts[-1])
        elif self.header and not self.header.endswith("\n"):
            self.header += self._newline
        if self.footer and not self.footer.endswith("\n"):
            self.footer += self._newline
        lead = self.footer + (self._newline if self.text else "")
        self.footer = ""
        self.parts.append(EntryText(lead, text, read_entry(_table(written).unwrap(), self.zoo, self.path, 0)))

    def _index(self, part: EntryText) -> int:
        return next(place for place, other in enumerate(self.parts) if other is part)

    def _end_with_newline(self, part: EntryText) -> None:
        if not part.text.endswith("\n"):
            part.text += self._newline

    @property
    def _newline(self) -> str:
        return "\r\n" if "\r\n" in self.header + "".join(part.text for part in self.parts) else "\n"


def parse_document(text: str, path: Path, zoo: str) -> Document:
    """Parse the text of a file.

    Raises:
        DocumentError: the file contains something invalid.
    """
    starts = [found.start() for found in _HEADER.finditer(text)]
    ends = [*starts, len(text)]
    document = Document(path, zoo, header=text[: ends[0]])
    document.strict_skips = _read_head(document)
    lead, place = "", 0
    while place < len(starts):
        line = text.count("\n", 0, starts[place]) + 1
        table, place, end = _next_entry(text, starts, ends, place, path, line)
        body = text[starts[place] : end]
        try:
            entry = read_entry(table, zoo, path, line)
        except EntryError as error:
            raise DocumentError(f"{path}, line {line + _line_within(body, error.key)}: {error}") from error
        cut = _end_of_values(body, table)
        document.parts.append(EntryText(lead, body[:cut], entry))
        lead = body[cut:]
        place = ends.index(end)
    document.footer = lead
    return document


def _next_entry(
    text: str, starts: Sequence[int], ends: Sequence[int], place: int, path: Path, line: int
) -> tuple[dict[str, Any], int, int]:
    """Return the table that starts here, and its end. What looks like the next entry may be inside a string."""
    first: TOMLKitError | None = None
    for end in ends[place + 1 :]:
        try:
            parsed = tomlkit.parse(text[starts[place] : end])
        except TOMLKitError as error:
            first = first or error
            continue
        others = [key for key in parsed if key != ENTRY]
        if others:
            raise DocumentError(f"{path}: [{others[0]}] does not belong to an entry: a file holds only [[{ENTRY}]]")
        return _table(parsed).unwrap(), place, end
    raise _unreadable(path, first, line)


def _unreadable(path: Path, error: TOMLKitError | None, line: int) -> DocumentError:
    if isinstance(error, ParseError):
        line += error.line - 1
    return DocumentError(f"{path}, line {line}: invalid TOML: {error}")


def _read_head(document: Document) -> bool:
    try:
        values = tomlkit.parse(document.header).unwrap()
    except TOMLKitError as error:
        raise _unreadable(document.path, error, 1) from error
    for key in values:
        line = 1 + _line_within(document.header, key)
        if key == ENTRY:
            raise DocumentError(f"{document.path}, line {line}: write each entry as a table that begins [[{ENTRY}]]")
        if key != STRICT_SKIPS:
            raise DocumentError(
                f"{document.path}, line {line}: unknown key {key!r}: before the entries, which begin [[{ENTRY}]], "
                f"there can be {STRICT_SKIPS} = true"
            )
    strict = values.get(STRICT_SKIPS, False)
    if not isinstance(strict, bool):
        line = 1 + _line_within(document.header, STRICT_SKIPS)
        raise DocumentError(f"{document.path}, line {line}: {STRICT_SKIPS} has to be true or false, not {strict!r}")
    return strict


def _line_within(text: str, key: str) -> int:
    """Return the number of lines before a key; 0 if it is not found."""
    match = re.search(rf"^[ \t]*[\[\"']*{re.escape(key)}[\"']?[ \t]*[=.\]]", text, re.MULTILINE) if key else None
    return text.count("\n", 0, match.start()) if match else 0


def _end_of_values(body: str, table: Mapping[str, Any]) -> int:
    """Return the position after the last value, where trailing blank lines and comments start."""
    lines = body.splitlines(keepends=True)
    kept = len(lines)
    while kept and (not lines[kept - 1].strip() or lines[kept - 1].lstrip().startswith("#")):
        kept -= 1
    for count in range(kept, len(lines)):
        cut = sum(map(len, lines[:count]))
        try:
            if _table(tomlkit.parse(body[:cut])).unwrap() == table:
                return cut
        except TOMLKitError:
            continue  # the end of a multi-line string may look like a comment
    return len(body)


def _table(parsed: tomlkit.TOMLDocument) -> Any:
    entries = parsed[ENTRY]
    assert isinstance(entries, AoT)
    return entries[0]


def _set(table: Any, key: str, patterns: list[str]) -> None:
    """Edit a list of patterns in place, to keep the comments inside."""
    value = table.get(key)
    if isinstance(value, Array):
        for position in reversed(range(len(value))):
            if value[position] not in patterns:
                del value[position]
        for pattern in patterns:
            if pattern not in value:
                value.append(_text_item(pattern))
        if _reads_as(table, key, patterns):
            return
    if value is None:
        table.append(key, _value_of(patterns))
    else:
        table[key] = _value_of(patterns)


def _reads_as(table: Any, key: str, patterns: list[str]) -> bool:
    try:
        read: Mapping[str, Any] = tomlkit.parse(f"{key} = {table[key].as_string()}\n").unwrap()
    except TOMLKitError:
        return False
    return list(read[key]) == patterns


def _value_of(patterns: Sequence[str]) -> Array | String:
    if len(patterns) == 1:
        return _text_item(patterns[0])
    array = tomlkit.array()
    array.extend([_text_item(pattern) for pattern in patterns])
    return array.multiline(len(array.as_string()) > _LINE)


def _text_item(text: str) -> String:
    """Return a TOML string, as a literal if it contains backslashes."""
    plain = text.isprintable() and "'" not in text
    return tomlkit.string(text, literal="\\" in text and plain)
