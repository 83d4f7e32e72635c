"""Record changes to a model so that all of them can be undone."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

_ABSENT = object()


class Transaction:
    """Record changes to dictionaries, such as the registries and attributes of a module.

    Undoing a change restores the original object, not a copy.
    """

    def __init__(self) -> None:
        self._done: list[tuple[MutableMapping[str, Any], str, Any, Any]] = []
        self._undone: list[tuple[MutableMapping[str, Any], str, Any, Any]] = []

    def set(self, mapping: MutableMapping[str, Any], key: str, value: Any) -> None:
        """Set `mapping[key] = value` and record the change. Undoing it keeps the order of the keys."""
        self._done.append((mapping, key, mapping.get(key, _ABSENT), value))
        mapping[key] = value

    def roll_back(self) -> None:
        """Undo all changes. A second call does nothing."""
        while self._done:
            mapping, key, old, _ = change = self._done.pop()
            if old is _ABSENT:
                mapping.pop(key, None)
            else:
                mapping[key] = old
            self._undone.append(change)

    def replay(self) -> None:
        """Redo the changes that were rolled back, with the same objects. A second call does nothing."""
        while self._undone:
            mapping, key, _, new = change = self._undone.pop()
            mapping[key] = new
            self._done.append(change)
