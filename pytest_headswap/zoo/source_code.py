"""Fingerprint the code that defines the models of a zoo, so that a resumed run notices when it has changed."""

from __future__ import annotations

import hashlib
import re
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytest_headswap.zoo.custom import ENTRY_POINTS
from pytest_headswap.zoo.registry import registration

_IMPORT = re.compile(rb"^[ \t]*(?:from[ \t]+(\w+)|import[ \t]+([\w., \t]+))", re.MULTILINE)
_INSTALLED = frozenset(("site-packages", "dist-packages"))
_OWN_PACKAGE = Path(__file__).parents[1]
_STDLIB = Path(sysconfig.get_path("stdlib"))


def code_fingerprint(zoo: str) -> dict[str, str]:
    """Return a digest for each file and package that defines the models of a zoo, or its version if it is installed.

    Start at the file that holds the zoo, and follow imports, also those inside functions. Of a package that is not
    installed, every file counts. Python's own modules and this package do not.
    """
    found: dict[str, str] = {}
    stack: list[Path | str] = list(_origins(zoo))
    seen: set[Path | str] = set()
    while stack:
        item = stack.pop()
        if item in seen:
            continue
        seen.add(item)
        name = item.name if isinstance(item, Path) else item
        files = [item] if isinstance(item, Path) else _own_files(item)
        if files is None:
            with suppress(PackageNotFoundError, ValueError):
                found[name] = version(name)
            continue
        digest = hashlib.sha256()
        for file in files:
            with suppress(OSError):  # a broken link
                content = file.read_bytes()
                digest.update(content)
                stack += _imported(content)
        if files:
            found[name] = digest.hexdigest()[:16]
    return dict(sorted(found.items()))


def _origins(zoo: str) -> Iterator[Path | str]:
    """Yield the files and the top-level packages that a zoo comes from."""
    if registered := registration(zoo):
        load, library = registered
        code: Any = getattr(getattr(load, "func", load), "__code__", None)
        if code is not None and not Path(code.co_filename).is_relative_to(_OWN_PACKAGE):
            yield Path(code.co_filename)
        if library:
            yield library
        return
    where = zoo.rpartition(":")[0] or next(entry.module for entry in entry_points(group=ENTRY_POINTS, name=zoo))
    yield Path(where) if where.endswith(".py") else where.partition(".")[0]


def _imported(source: bytes) -> Iterator[str]:
    """Yield the top-level names that a file imports."""
    for package, names in _IMPORT.findall(source):
        for name in (package or names).decode().split(","):
            yield name.strip().partition(" ")[0].partition(".")[0]


def _own_files(name: str) -> list[Path] | None:
    """Return the files of a module or package that is not installed, or None. Python's own modules have no files."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # such as a module without a spec
        spec = None
    places = [] if spec is None else [*(spec.submodule_search_locations or ()), spec.origin or ""]
    paths = [path for place in places if (path := Path(place)).exists() and place]
    if any(not _INSTALLED.isdisjoint(path.parts) for path in paths):
        return None
    own = [path for path in paths if not path.is_relative_to(_STDLIB) and not path.is_relative_to(_OWN_PACKAGE)]
    files = {file for path in own for file in (path.rglob("*.py") if path.is_dir() else [path])}
    return sorted(file for file in files if file.suffix == ".py")
