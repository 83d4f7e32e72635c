"""Where files of expectations lie, and how they are read and written: whole or not at all, by one process at a time."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pytest_headswap.expectations.toml_document import Document, DocumentError, parse_document

SUFFIX = ".toml"


@dataclass(frozen=True)
class Store:
    """A file of expectations for all zoos, or a folder with a file for each.

    Attributes:
        path: absolute.
        typed: as the user wrote it.
        zoos: names of the zoos that this run is about.
    """

    path: Path
    typed: str
    zoos: tuple[str, ...]

    @property
    def is_folder(self) -> bool:
        """Whether each zoo has a file of its own; what is not there yet is a folder unless it is called a file."""
        return self.path.is_dir() or (not self.path.exists() and self.path.suffix != SUFFIX)

    def files(self) -> dict[str, Path]:
        """The file of each zoo; it may not be there yet."""
        if self.is_folder:
            return {zoo: self.path / f"{quote(zoo, safe='')}{SUFFIX}" for zoo in self.zoos}
        return dict.fromkeys(self.zoos, self.path)

    def read(self) -> dict[str, str]:
        """The text of each file that is there, by path.

        Raises:
            DocumentError: one cannot be read.
        """
        texts = {}
        for path in dict.fromkeys(self.files().values()):
            with suppress(FileNotFoundError):
                texts[str(path)] = _read(path)
        return texts

    def shown(self, path: Path) -> Path:
        """How the user would type the path of a file."""
        return Path(self.typed) / path.name if self.is_folder else Path(self.typed)

    def parse(self, text: str, path: Path) -> Document:
        """A file of this store; messages call it as the user would.

        Raises:
            DocumentError: something in it cannot be used.
        """
        zoo = next((zoo for zoo, file in self.files().items() if file == path), "") if self.is_folder else path.stem
        document = parse_document(text, self.shown(path), zoo)
        for part in document.parts if self.is_folder else ():
            if part.entry.zoo != zoo:
                raise DocumentError(
                    f"{part.entry.where}: zoo is {part.entry.zoo!r}, but in this folder the file is that of {zoo!r}: "
                    "leave zoo out, or move the entry to the file of its zoo"
                )
        return document

    def update(self, path: Path, change: Callable[[Document], None]) -> tuple[str, str]:
        """Change a file while no other process does; returns its text before and after.

        Raises:
            DocumentError: the file cannot be read, or cannot be used any more, or not be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(path.parent):
                before = _read(path) if path.exists() else ""
                document = self.parse(before, path)
                change(document)
                after = document.text
                self.parse(after, path)  # what is written can be read
                if after != before:
                    _replace(path, after)
        except OSError as error:
            raise DocumentError(f"cannot write {path}: {error.strerror or error}") from error
        return before, after


def default_zoo_is_known(documents: Sequence[Document], known: Mapping[str, object]) -> None:
    """Refuse entries that name no zoo in a file that is not called after one.

    Raises:
        DocumentError: there is such an entry.
    """
    for document in documents:
        for part in document.parts:
            if part.entry.zoo == document.zoo and document.zoo not in known:
                raise DocumentError(
                    f"{part.entry.where}: zoo is missing, and the file is not called after one: "
                    f'write zoo = "{next(iter(known), "timm")}"'
                )


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A block that one process on this machine runs at a time. On Windows there is no such lock."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    lock = os.open(folder, os.O_RDONLY)  # the folder itself: a file would be left lying around
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _replace(path: Path, text: str) -> None:
    """Write a file so that there is the old one or the new one at any time; a link stays one."""
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
        os.replace(name, path)  # noqa: PTH105 - as it is called everywhere
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
