"""Find the source code that a model rests on, by following imports through source files. Nothing is imported.

`source_walk.py` follows the imports of one model; here is what all models share, such as the files that were read.

Two rules, one for each way in which a zoo names the code of a model:

- A zoo that names the modules of a model (a class, or `ModelSpec.defined_in`) is taken at its word: these modules and
  what they import count. A name that a package passes on from one of its modules leads to that module. The packages
  around a module count without the modules that they import.
- Otherwise everything counts that Python imports along with the code of the zoo's entry.

All files of a library count if its zoo names no modules. Other packages count by their version and the list of their
installed files, or by all their files if they are not installed.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytest_headswap._packages import distributions_by_package
from pytest_headswap.zoo.source_files import SourceFile, data_digest, digest, file_digest, read_source

OWN_PACKAGE = "pytest_headswap"
ABSENT = "absent"
_INSTALLED = frozenset(("site-packages", "dist-packages"))
_IMPORT = re.compile(rb"^[ \t]*(?:from[ \t]+(\w+)|import[ \t]+([\w., \t]+))", re.MULTILINE)


@dataclass(frozen=True)
class Code:
    """The code that something rests on.

    Attributes:
        parts: the digest of each file, by its path below its package, and the version of each package.
        unknown: why more code may count that is not known; empty if all is known.
        files: the files that were read.
    """

    parts: dict[str, str]
    unknown: str = ""
    files: frozenset[Path] = frozenset()

    @cached_property
    def digest(self) -> str:
        """Return a digest of all parts."""
        return digest(json.dumps(self.parts, sort_keys=True).encode())


class SourceCode:
    """Finds code, and reads each file once.

    Args:
        written: the file that this run writes. It is no code, and neither is a folder that holds a file of this name.
    """

    def __init__(self, written: Path | None = None) -> None:
        self._written = written
        self.followed: dict[tuple[frozenset[Any], ...], Code] = {}
        self._sources: dict[Path, SourceFile] = {}
        self._modules: dict[str, ModuleSpec | None] = {}
        self._files: dict[str, tuple[str, Path] | None] = {}
        self._data: dict[Path, str] = {}
        self._listings: dict[Path, frozenset[str]] = {}
        self._in_package: dict[Path, bool] = {}
        self._whole: dict[str, list[Path]] = {}
        self._named: dict[Path, dict[str, str]] = {}

    def is_installed(self, package: str) -> bool:
        """Return whether a top-level package was installed, so that it has a version."""
        spec = self.find(package)
        if spec is None or spec.origin in ("built-in", "frozen"):
            return spec is not None
        places = [*(spec.submodule_search_locations or ()), spec.origin or ""]
        return any(not _INSTALLED.isdisjoint(Path(place).parts) for place in places)

    def locate_all(self, places: Iterable[tuple[str, str]]) -> frozenset[str | Path]:
        """Return each module by name, or by its file if the name leads elsewhere, as with several `conftest.py`."""
        return frozenset(map(self._locate, *zip(*places, strict=True))) if places else frozenset()

    def _locate(self, module: str, file: str) -> str | Path:
        spec = None if module.startswith("headswap_zoo_") else self.find(module)
        if spec is not None and spec.origin is not None and str(Path(spec.origin).resolve()) == file:
            return module
        return Path(file)

    def source(self, path: Path) -> SourceFile:
        """Return a file, read once."""
        if path not in self._sources:
            self._sources[path] = read_source(path)
        return self._sources[path]

    def find(self, module: str) -> ModuleSpec | None:
        """Return where a module is, without importing it; None if it is nowhere."""
        if module not in self._modules:
            self._modules[module] = self._find(module)
        return self._modules[module]

    def file_of(self, module: str) -> tuple[str, Path] | None:
        """Return the file of a module, and its path below the folder of its package; None if it has no file."""
        if module not in self._files:
            spec = self.find(module)
            known = spec is not None and spec.origin is not None and spec.has_location
            self._files[module] = (label(module, spec.origin), Path(spec.origin)) if known else None  # type: ignore[union-attr, arg-type]
        return self._files[module]

    def _find(self, module: str) -> ModuleSpec | None:
        package, _, _ = module.rpartition(".")
        if not package:
            with suppress(Exception):  # such as a module without a spec, or a finder of the user's
                return find_spec(module)
            return None
        parent = self.find(package)
        if parent is None or parent.submodule_search_locations is None:
            return None
        return PathFinder.find_spec(module, list(parent.submodule_search_locations))

    def data(self, folder: Path) -> str:
        """Return the digest of a folder's data files."""
        if folder not in self._data:
            self._data[folder] = data_digest(folder)
        return self._data[folder]

    def is_package(self, folder: Path) -> bool:
        """Return whether a folder is a package with a file of its own."""
        if folder not in self._in_package:
            self._in_package[folder] = (folder / "__init__.py").exists()
        return self._in_package[folder]

    def imported_packages(self, path: Path, content: bytes) -> set[str]:
        """Return the other packages that a file imports, without Python's own."""
        named: set[str] = set()
        for package, names in _IMPORT.findall(content):
            named |= {
                name.strip().partition(" ")[0].partition(".")[0] for name in (package or names).decode().split(",")
            }
        named -= {"", OWN_PACKAGE, *sys.stdlib_module_names}
        if all(map(self.is_installed, named)):
            return named
        return named & self.source(path).imported_packages  # without words from its texts

    def version(self, package: str) -> str:
        """Return the version of a package."""
        return installed_version(package) if self.is_installed(package) else ABSENT

    def all_files(self, package: str) -> list[Path]:
        """Return all source files of a package or module."""
        if package not in self._whole:
            spec = self.find(package)
            places = [] if spec is None else [*(spec.submodule_search_locations or ()), spec.origin or ""]
            paths = [Path(place) for place in dict.fromkeys(places) if place and Path(place).exists()]
            suffixes = (".py", *EXTENSION_SUFFIXES)
            found = {
                file
                for path in paths
                for file in (path.rglob("*") if path.is_dir() else [path])
                if file.name.endswith(suffixes) and file.is_file()
            }
            self._whole[package] = sorted(found)
        return self._whole[package]

    def _is_written(self, path: Path) -> bool:
        written = self._written
        if written is None:
            return False
        return path.name == written.name or path.resolve() == written.parent or (path / written.name).exists()

    def is_known(self, package: str) -> bool:
        """Return whether a top-level package is Python's own or can be found."""
        return package in sys.stdlib_module_names or package == OWN_PACKAGE or self.find(package) is not None

    def stored(self, path: Path) -> str:
        """Return the digest of a file or of the files in a folder, other than the report; empty if there is none.

        Raises:
            UnknownCodeError: a folder holds too much.
        """
        if self._is_written(path):
            return ""
        if path.is_dir():
            return "" if self.is_package(path) else self.data(path)
        return file_digest(path) if path.is_file() else ""

    def _stored_in(self, folder: Path, texts: Iterable[str]) -> dict[str, str]:
        if folder not in self._listings:
            self._listings[folder] = frozenset(item.name for item in folder.iterdir())
        names = [text for text in texts if text.split("/", 1)[0] in self._listings[folder]]
        return {text: found for text in names if (found := self.stored(folder / text))}

    def named_files(self, path: Path) -> dict[str, str]:
        """Return the digests of files that a source file names in a text, by this text.

        They may be beside the file or, for code that is not installed, in the working directory.
        """
        if path not in self._named:
            texts = sorted(text for text in self.source(path).quoted if not text.endswith((".py", ".pyc")))
            found = self._stored_in(path.parent, texts)
            if _INSTALLED.isdisjoint(path.parts):  # a mere word there would often be the name of a folder
                found |= self._stored_in(Path.cwd(), [text for text in texts if "." in text or "/" in text])
            self._named[path] = found
        return self._named[path]


def environment_digest(name: str) -> str:
    """Return a digest of an environment variable, which may be a secret."""
    value = os.environ.get(name)
    return ABSENT if value is None else digest(value.encode("utf-8", "surrogateescape"))


def label(module: str, file: str) -> str:
    """Return the path of a module below the folder of its top-level package."""
    path, name = module.replace(".", "/"), Path(file).name
    return f"{path}/{name}" if name.startswith("__init__.") else f"{path.rpartition('/')[0]}/{name}".lstrip("/")


@cache
def installed_version(package: str) -> str:
    """Return the version of an installed top-level package, and a digest of the files that its installer lists."""
    found = _distributions(package)
    return " ".join(f"{item.version}-{_record_digest(item)}" for item in found) or "unknown"


def required_versions(package: str) -> dict[str, str] | None:
    """Return the versions of the distributions that an installed package requires; None if that is not known."""
    found = _distributions(package)
    if not found:
        return None
    lines = [line for item in found for line in item.requires or () if "extra ==" not in line]
    names = {match[0] for line in lines if (match := re.match(r"[\w.-]+", line))}
    return {name: installed_version(name) for name in sorted(names)}


def _distributions(package: str) -> list[Distribution]:
    with suppress(PackageNotFoundError, ValueError):
        return [distribution(package)]
    return [distribution(name) for name in sorted(set(distributions_by_package().get(package, ())))]


def _record_digest(item: Distribution) -> str:
    """Return a digest of the list of installed files, so that another build of the same version differs."""
    lines = (item.read_text("RECORD") or "").splitlines()
    kept = (line for line in lines if not line.startswith("..") and ".dist-info/" not in line and ",sha256=" in line)
    return digest(*sorted(line.encode("utf-8", "surrogateescape") for line in kept))
