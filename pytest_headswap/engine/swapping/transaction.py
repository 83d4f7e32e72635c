"""Record changes to a model so that all of them can be undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from pytest_headswap.engine.swapping.owners import AttributesOf, attributes_of


class _Absent:
    """Stand for a key that was not there. A class stays the same object in copies and pickles."""


_ABSENT = _Absent


class _Kind(NamedTuple):
    """The dtype and device of a tensor."""

    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class _Change:
    """A value that was replaced. The kinds are those of the tensors when the change was made."""

    container: Any
    key: Any
    old: Any
    new: Any
    old_kind: _Kind | None
    new_kind: _Kind | None

    @property
    def place(self) -> tuple[int, Any]:
        return id(self.container), self.key

    @property
    def present(self) -> Any:
        """Return the value that is there now."""
        is_mapping = isinstance(self.container, Mapping)
        return self.container.get(self.key, _ABSENT) if is_mapping else self.container[self.key]


class Transaction:
    """Record changes to dictionaries and lists, such as the registries and attributes of a module.

    Undoing a change restores the original object, not a copy. If the model was moved or cast in the meantime, the
    tensors that come back follow it.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._done: list[_Change] = []
        self._undone: list[_Change] = []
        self._model = model
        self._model_kind = _kind_of(model)
        self._moved: dict[int, tuple[Any, nn.Module]] = {}

    def __getstate__(self) -> dict[str, Any]:
        changes = (*self._done, *self._undone)
        owners = attributes_of(self._model, [change.container for change in changes]) if self._model else {}
        lists = {
            name: [replace(item, container=owners.get(id(item.container), item.container)) for item in listed]
            for name, listed in (("_done", self._done), ("_undone", self._undone))
        }
        return {**vars(self), **lists, "_moved": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in ("_done", "_undone"):
            for item in state[name]:
                if isinstance(item.container, AttributesOf):
                    object.__setattr__(item, "container", vars(item.container.owner))
        vars(self).update(state)

    def set(self, container: Any, key: Any, value: Any) -> None:
        """Set `container[key] = value` and record the change. Undoing it keeps the order of the keys."""
        old = container.get(key, _ABSENT) if isinstance(container, Mapping) else container[key]
        self._done.append(_Change(container, key, old, value, _kind_of(old), _kind_of(value)))
        container[key] = value

    @property
    def in_force(self) -> bool:
        """Whether changes have been made and not been rolled back."""
        return bool(self._done)

    def replaced_tensors(self) -> dict[int, torch.Tensor]:
        """Return the new tensor for the id of each tensor that was replaced."""
        return {
            id(change.old): change.new
            for change in self._done
            if isinstance(change.old, torch.Tensor) and isinstance(change.new, torch.Tensor)
        }

    def has_placed(self, value: Any) -> bool:
        """Return whether a change put this very object in its place."""
        return any(change.new is value for change in self._done)

    def savepoint(self) -> int:
        """Return a mark for `undo_since`."""
        return len(self._done)

    def undo_since(self, savepoint: int) -> None:
        """Undo and forget all changes since a savepoint."""
        while len(self._done) > savepoint:
            change = self._done.pop()
            self._put(change, change.old, change.old_kind, change.new_kind)

    def is_covered_by(self, later: Transaction) -> bool:
        """Return whether a later transaction replaced a tensor or module that this one put in its place."""
        placed = {change.place for change in self._done if isinstance(change.new, (torch.Tensor, nn.Module))}
        return any(change.place in placed for change in later._done)

    def roll_back(self, later: Sequence[Transaction] = ()) -> None:
        """Undo all changes. A second call does nothing.

        Where one of the `later` transactions set another value, that value stays until it is undone as well.
        """
        while self._done:
            change = self._done.pop()
            if not any(other._inherit(change) for other in later):
                present = change.present
                if isinstance(change.new, torch.Tensor) and isinstance(present, torch.Tensor):
                    change = replace(change, new=present)  # a move to some devices, such as XLA, makes new parameters
                self._put(change, change.old, change.old_kind, change.new_kind)
            self._undone.append(change)

    def _inherit(self, undone: _Change) -> bool:
        """Take over the old value of an earlier transaction. Return whether this one has changed the same place."""
        index = next((i for i, change in enumerate(self._done) if change.place == undone.place), None)
        if index is not None:
            self._done[index] = replace(self._done[index], old=undone.old, old_kind=undone.old_kind)
        return index is not None

    def replay(self) -> None:
        """Redo the changes that were rolled back, with the same objects. A second call does nothing."""
        while self._undone:
            change = self._undone.pop()
            present = change.present
            if present is not change.old:  # another transaction was undone or redone, or a move made new parameters
                change = replace(change, old=present)
            self._put(change, change.new, change.new_kind, change.old_kind)
            self._done.append(change)

    def _put(self, change: _Change, value: Any, own: _Kind | None, replaced: _Kind | None) -> None:
        """Put a value back. `own` and `replaced` are the kinds of it and of the value in its place when it changed."""
        if value is _ABSENT:
            change.container.pop(change.key, None)
            return
        if isinstance(value, (torch.Tensor, nn.Module)) and own is not None:
            present = _kind_of(change.container.get(change.key) if isinstance(change.container, Mapping) else None)
            if present is None or replaced is None:  # such as an Identity
                present, replaced = _kind_of(self._model), self._model_kind
            was = _kind_of(value)
            if present is not None and replaced is not None and was is not None:
                dtype = present.dtype if own.dtype == replaced.dtype else own.dtype
                device = present.device if own.device == replaced.device else own.device
                value = self._move(value, was, _Kind(dtype, device))
        change.container[change.key] = value

    def _move(self, value: Any, was: _Kind, now: _Kind) -> Any:
        """Return a tensor or module on another device and in another dtype: the same object where that is possible."""
        if was == now:
            return value

        def move(tensor: torch.Tensor) -> torch.Tensor:
            device = now.device if tensor.device == was.device else tensor.device
            return tensor.to(device, now.dtype if tensor.dtype == was.dtype else tensor.dtype)

        holder: Any = value
        if not isinstance(value, nn.Module):
            holder = self._moved.get(id(value), (None, nn.Module()))[1]  # tied tensors stay tied
            if not self._moved.get(id(value)):
                register = holder.register_parameter if isinstance(value, nn.Parameter) else holder.register_buffer
                register("value", value)
                self._moved[id(value)] = value, holder
        holder._apply(move)
        return value if holder is value else holder.value


def _kind_of(value: Any) -> _Kind | None:
    tensor = next(value.parameters(), None) if isinstance(value, nn.Module) else value
    return _Kind(tensor.dtype, tensor.device) if isinstance(tensor, torch.Tensor) else None
