"""See which functions of torch and Python, and which imported modules, a model replaces."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from functools import cache
from itertools import chain
from operator import is_
from pathlib import Path
from typing import Any

_WATCHED = ("builtins", "math", "random", "numpy", "numpy.random", "torch", "torch.functional", "torch.cuda")
"""Modules whose functions are watched, besides those of `torch.nn`."""
_SET_BY_EXTENSIONS = frozenset(("cython_runtime",))
"""Modules that the first extension in C of their kind creates when it is imported; the others share it."""
_MISSING = object()


class PatchedCode:
    """The functions of the watched modules and their classes, and the imported modules, at the time of creation."""

    def __init__(self) -> None:
        self._imported = dict(sys.modules)
        self._namespaces = [(name, value, dict(vars(value))) for name, value in _namespaces()]
        self._now = [sys.modules, *(vars(value) for _, value, _ in self._namespaces)]
        self._sizes = [len(namespace) for namespace in self._now]
        self._values = list(self._current_values())

    def _current_values(self) -> Iterator[Any]:
        return chain.from_iterable(namespace.values() for namespace in self._now)

    def changes(self) -> list[str]:
        """Return descriptions of what was replaced since."""
        # most models change nothing, and to compare all namespaces at once takes a fraction of the time
        if list(map(len, self._now)) == self._sizes and all(map(is_, self._current_values(), self._values)):
            return []
        return [
            *(words for name, value, was in self._namespaces for words in self._changed_in(name, value, was)),
            *self._changed_imports(),
        ]

    def _changed_in(self, name: str, namespace: Any, was: dict[str, Any]) -> Iterator[str]:
        now = vars(namespace)
        if len(now) == len(was) and all(map(is_, now.values(), was.values())):
            return
        for key, value in was.items():
            new = now.get(key, _MISSING)
            if new is not value and callable(value) and not _is_wrapped_by_torch(new, value):
                yield f"{name}.{key} was replaced"
        bases = namespace.__mro__[1:] if isinstance(namespace, type) else ()
        for key in now.keys() - was.keys():
            if callable(now[key]) and any(key in vars(base) for base in bases):
                yield f"{name}.{key} was overridden"

    def _changed_imports(self) -> Iterator[str]:
        for name, module in self._imported.items():
            new = sys.modules.get(name, _MISSING)
            if new is not module and not _is_imported_again(new, module):
                yield f"sys.modules[{name!r}] was {'replaced' if name in sys.modules else 'removed'}"
        for name in sorted(sys.modules.keys() - self._imported.keys()):
            # extensions in C add parts of themselves, and private modules
            is_public = "." not in name and not name.startswith("_") and name not in _SET_BY_EXTENSIONS
            if is_public and getattr(sys.modules[name], "__spec__", None) is None:
                yield f"sys.modules[{name!r}] was set without an import"


def _is_imported_again(new: Any, old: Any) -> bool:
    """Return whether a module was executed once more from its file, as transformers does with itself."""
    file = getattr(old, "__file__", None)
    return type(new) is type(old) and file is not None and getattr(new, "__file__", None) == file


def _is_wrapped_by_torch(new: Any, old: Any) -> bool:
    """Return whether a part of torch wraps another, as `torch._dynamo` does when it is imported."""
    import torch

    return (
        isinstance(new, types.FunctionType)
        and new.__code__.co_filename.startswith(str(Path(torch.__file__).parent))
        and ("<locals>" in new.__qualname__ or new.__qualname__ == getattr(old, "__qualname__", ""))
    )


def _namespaces() -> Iterator[tuple[str, Any]]:
    """Yield the watched modules and the classes that they define, by name."""
    for name, module in list(sys.modules.items()):
        if (name in _WATCHED or name.startswith("torch.nn.")) and hasattr(module, "__dict__"):
            yield name, module
            yield from _classes_in(module, name)


@cache
def _classes_in(module: types.ModuleType, name: str) -> list[tuple[str, type]]:
    classes = [(f"{name}.{key}", value) for key, value in vars(module).items() if isinstance(value, type)]
    return [(key, value) for key, value in classes if value.__module__ == name != "builtins"]
