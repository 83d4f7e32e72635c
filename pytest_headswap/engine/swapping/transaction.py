"""Changes to a model that can all be put back."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

_ABSENT = object()


class Transaction:
    """Remembers each change to a dictionary (a module's registries and attributes), to put back the very objects."""

    def __init__(self) -> None:
        self._done: list[tuple[MutableMapping[str, Any], str, Any, Any]] = []
        self._undone: list[tuple[MutableMapping[str, Any], str, Any, Any]] = []

    def set(self, mapping: MutableMapping[str, Any], key: str, value: Any) -> None:
        """`mapping[key] = value`, remembered. The order of the keys is kept, also when it is put back."""
        self._done.append((mapping, key, mapping.get(key, _ABSENT), value))
        mapping[key] = value

    def roll_back(self) -> None:
        """Put back what was there before the first change. A second call changes nothing more."""
        while self._done:
            mapping, key, old, _ = change = self._done.pop()
            if old is _ABSENT:
                mapping.pop(key, None)
            else:
                mapping[key] = old
            self._undone.append(change)

    def replay(self) -> None:
        """Make the changes again that were rolled back, with the very same objects. A second call changes nothing."""
        while self._undone:
            mapping, key, _, new = change = self._undone.pop()
            mapping[key] = new
            self._done.append(change)
