"""Changes to a model that can all be put back."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

_ABSENT = object()


class Transaction:
    """Remembers each change to a dictionary (a module's registries and attributes), to put back the very objects."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, mapping: MutableMapping[str, Any], key: str, value: Any) -> None:
        """`mapping[key] = value`, remembered. The order of the keys is kept, also when it is put back."""
        old = mapping.get(key, _ABSENT)

        def undo() -> None:
            if old is _ABSENT:
                mapping.pop(key, None)
            else:
                mapping[key] = old

        self._undo.append(undo)
        mapping[key] = value

    def roll_back(self) -> None:
        """Put back what was there before the first change. A second call changes nothing more."""
        while self._undo:
            self._undo.pop()()
