"""The heads of a model, and the path from the backbone through each, as plain data.

{"heads": [{"path": "fc", "kind": "linear", "in_features": 512, "num_classes": 7, ...,
            "path_to_output": [["layer", "layer4.1.act2", "ReLU", [2, 512, 2, 2]], ...,
                                ["output", "output", "", [2, 1000]]],
            "old_num_classes": 1000}],
 "notes": []}
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from pytest_headswap.head import Head


@dataclass(frozen=True, slots=True)
class SwappedHead(Head):
    """A swapped head, with its class count before the swap."""

    old_num_classes: int = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class SwappedHeads:
    """The heads of a model, and the engine's notes."""

    heads: tuple[SwappedHead, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a dict that `json` can write. Empty values are omitted, as a journal holds thousands of these."""
        heads = [
            {name: value for name, value in msgspec.to_builtins(head).items() if value not in ((), None)}
            for head in self.heads
        ]
        return {"heads": heads, **({"notes": self.notes} if self.notes else {})}
