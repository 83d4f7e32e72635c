"""The heads of a model, and the path from the backbone through each, as plain data.

{"heads": [{"path": "fc", "kind": "linear", "in_features": 512, "num_classes": 7, ...,
            "path_to_output": [["layer", "layer4.1.act2", "ReLU", [2, 512, 2, 2]], ...,
                                ["output", "output", "", [2, 1000]]],
            "old_num_classes": 1000}],
 "notes": []}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from pytest_headswap.head import Head, PathStep


@dataclass(frozen=True)
class SwappedHead(Head):
    """A swapped head, with its class count before the swap."""

    old_num_classes: int = 0


@dataclass(frozen=True)
class SwappedHeads:
    """The heads of a model, and the engine's notes."""

    heads: tuple[SwappedHead, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a dict of plain JSON types. Empty values are omitted, as a journal holds thousands of these."""
        return {
            "heads": [dict(_head_fields(head)) for head in self.heads],
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SwappedHeads:
        """Return the object that `to_json` wrote; fields from a later version are ignored.

        Raises:
            ValueError, TypeError: the data has another form.
        """
        return cls(tuple(map(_head, data["heads"])), tuple(map(str, data.get("notes", ()))))


_KNOWN = {item.name for item in fields(SwappedHead)}
_LISTS = ("aliases", "tensors", "outputs", "evidence")
_NUMBERS = ("in_features", "old_num_classes", "num_classes", "class_dim")


def _head_fields(head: SwappedHead) -> Iterator[tuple[str, Any]]:
    for item in fields(head):
        value = getattr(head, item.name)
        if item.name == "path_to_output":
            value = [[step.kind, step.name, step.type, list(step.shape)] for step in head.path_to_output]
        elif item.name in _LISTS:
            value = list(value)
        if value not in ([], None):
            yield item.name, value


def _head(data: Mapping[str, Any]) -> SwappedHead:
    values = {name: value for name, value in data.items() if name in _KNOWN}
    for name in ("path", "kind", "role", "activation"):
        if not isinstance(values.get(name, ""), str):
            raise ValueError(f"anatomy: {name} of a head cannot be {values[name]!r}")
    values |= {name: int(values[name]) for name in _NUMBERS}
    values |= {name: tuple(map(str, values.get(name, ()))) for name in _LISTS}
    values["path_to_output"] = tuple(
        PathStep(str(kind), str(name), str(type_), tuple(map(int, shape)))
        for kind, name, type_, shape in values.get("path_to_output", ())
    )
    return SwappedHead(**values)
