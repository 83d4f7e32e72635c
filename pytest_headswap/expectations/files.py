"""Locate, read and write expectations files. Writes are atomic, and only one process writes at a time."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pytest_headswap.expectations.toml_document import Document, DocumentError, parse_document
from pytest_headswap.expectations.update import Update

if TYPE_CHECKING:
    from filelock import FileLock

SUFFIX = ".toml"


@dataclass(frozen=True)
class ExpectationFiles:
    """An expectations file for all zoos, or a folder with a file for each.

    Attributes:
        path: the absolute path.
        given_path: the path as the user wrote it.
        zoos: names of the zoos in this run.
    """

    path: Path
    given_path: str
    zoos: tuple[str, ...]

    @property
    def is_folder(self) -> bool:
        """Return whether each zoo has its own file. A path that does not exist is a folder unless it ends in .toml."""
        return self.path.is_dir() or (not self.path.exists() and self.path.suffix != SUFFIX)

    def files(self) -> dict[str, Path]:
        """Return the file of each zoo, which may not exist yet."""
        if self.is_folder:
            return {zoo: self.path / f"{quote(zoo, safe='')}{SUFFIX}" for zoo in self.zoos}
        return dict.fromkeys(self.zoos, self.path)

    def read(self) -> dict[str, str]:
        """Return the text of each existing file, by path.

        Raises:
            DocumentError: a file cannot be read.
        """
        texts = {}
        for path in dict.fromkeys(self.files().values()):
            with suppress(FileNotFoundError):
                texts[str(path)] = _read(path)
        return texts

    def display_path(self, path: Path) -> Path:
        """Return the path of a file as the user would type it."""
        return Path(self.given_path) / path.name if self.is_folder else Path(self.given_path)

    def parse(self, text: str, path: Path) -> Document:
        """Parse one of the files. Messages show its path as the user would type it.

        Raises:
            DocumentError: the file contains something invalid.
        """
        zoo = next((zoo for zoo, file in self.files().items() if file == path), "") if self.is_folder else path.stem
        document = parse_document(text, self.display_path(path), zoo)
        for entry in document.entries if self.is_folder else ():
            if entry.zoo != zoo:
                raise DocumentError(
                    f"{entry.where}: zoo is {entry.zoo!r}, but this is the file of {zoo!r}. "
                    "Remove zoo, or move the entry to the file of its zoo"
                )
        return document

    def update(self, path: Path, change: Callable[[Document], Update]) -> tuple[str, Update]:
        """Change a file under a lock; return its old text and the update.

        Raises:
            DocumentError: the file cannot be read, is no longer valid, or cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _lock(path):
                before = _read(path) if path.exists() else ""
                update = change(self.parse(before, path))
                if update.document.text != before:
                    _write_atomically(path, update.document.text)
        except OSError as error:
            raise DocumentError(f"cannot write {path}: {error.strerror or error}") from error
        return before, update


def require_known_zoo(documents: Sequence[Document], known: Mapping[str, object]) -> None:
    """Reject entries without a zoo in a file that is not named after one.

    Raises:
        DocumentError: there is such an entry.
    """
    for document in documents:
        for entry in document.entries:
            if entry.zoo == document.zoo and document.zoo not in known:
                raise DocumentError(
                    f"{entry.where}: zoo is missing, and the file is not named after a zoo. "
                    f'Write zoo = "{next(iter(known), "timm")}"'
                )


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _lock(path: Path) -> FileLock:
    """Return the lock of a file, for all processes of a user on this machine.

    The lock file is in the temporary folder, because filelock does not delete it.
    """
    from filelock import FileLock  # only updates pay for this import

    user = os.getuid() if hasattr(os, "getuid") else ""  # another user cannot open the lock file
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"pytest-headswap-{user}-{digest}.lock")


def _write_atomically(path: Path, text: str) -> None:
    """Replace a file atomically; a link stays a link."""
    path = path.resolve()
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~mask)
        os.replace(name, path)  # noqa: PTH105 - the usual spelling
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
