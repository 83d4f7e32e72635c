"""Import changed modules in place of the files of a package.

Python imports `sitecustomize` at its start if this folder is on `PYTHONPATH`. Processes that a test starts therefore
import the changed modules too. The files of the package are never written to.
"""

from __future__ import annotations

import builtins
import marshal
import mmap
import os
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourcelessFileLoader
from pathlib import Path
from types import CodeType, ModuleType

CHANGED = "MUTATION_CHANGED"
"""The variable that names the folder with the changed modules, `<module>.code`."""
HITS = "MUTATION_HITS"
"""The variable that names the file where changed modules mark what they reach: `mutation_hits[n] = 1`."""

_find = PathFinder.find_spec


class _ChangedLoader(SourcelessFileLoader):
    """Load marshalled code. Tracebacks and `inspect` still name the file of the package."""

    def __init__(self, name: str, origin: str, code: Path) -> None:
        super().__init__(name, origin)
        self._changed = code

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = marshal.loads(self._changed.read_bytes())
        return code


class _ChangedFinder:
    @classmethod  # a bound method, which pytest keeps as an attribute of a class
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = _find(fullname, path, target)
        folder = os.environ.get(CHANGED)
        if folder and spec is not None and spec.origin is not None:
            code = Path(folder, f"{fullname}.code")
            if code.exists():
                spec.loader = _ChangedLoader(fullname, spec.origin, code)
        return spec


def open_hits() -> None:
    """Map the file for the marks into memory, shared with the processes that this one starts."""
    if os.environ.get(HITS):
        with Path(os.environ[HITS]).open("r+b") as file:
            builtins.mutation_hits = mmap.mmap(file.fileno(), 0)  # type: ignore[attr-defined]


# pytest's import hook asks this finder too, and skips modules whose loader is not the one for source files
PathFinder.find_spec = _ChangedFinder.find_spec  # type: ignore[method-assign]
open_hits()
