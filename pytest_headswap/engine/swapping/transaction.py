"""Record changes to a model so that all of them can be undone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_ABSENT = object()


class Transaction:
    """Record changes to dictionaries and lists, such as the registries and attributes of a module.

    Undoing a change restores the original object, not a copy.
    """

    def __init__(self) -> None:
        self._done: list[tuple[Any, Any, Any, Any]] = []
        self._undone: list[tuple[Any, Any, Any, Any]] = []

    def set(self, container: Any, key: Any, value: Any) -> None:
        """Set `container[key] = value` and record the change. Undoing it keeps the order of the keys."""
        old = container.get(key, _ABSENT) if isinstance(container, Mapping) else container[key]
        self._done.append((container, key, old, value))
        container[key] = value

    def replaced_tensors(self) -> dict[int, torch.Tensor]:
        """Return the new tensor for the id of each tensor that was replaced."""
        return {
            id(old): new
            for _, _, old, new in self._done
            if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor) and old is not new
        }

    def savepoint(self) -> int:
        """Return a mark for `undo_since`."""
        return len(self._done)

    def undo_since(self, savepoint: int) -> None:
        """Undo and forget all changes since a savepoint."""
        while len(self._done) > savepoint:
            self._undo(self._done.pop())

    def roll_back(self) -> None:
        """Undo all changes. A second call does nothing."""
        while self._done:
            change = self._done.pop()
            self._undo(change)
            self._undone.append(change)

    def replay(self) -> None:
        """Redo the changes that were rolled back, with the same objects. A second call does nothing."""
        while self._undone:
            container, key, _, new = change = self._undone.pop()
            container[key] = new
            self._done.append(change)

    @staticmethod
    def _undo(change: tuple[Any, Any, Any, Any]) -> None:
        container, key, old, _ = change
        if old is _ABSENT:
            container.pop(key, None)
        else:
            container[key] = old
