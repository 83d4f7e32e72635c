"""Output structures of planted models, and how to read the class outputs from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor
from torch.distributions import Categorical


@dataclass
class Outputs:
    """An output dataclass like those of large libraries."""

    logits: Any
    hidden: Tensor


class Named(NamedTuple):
    """A named tuple of outputs."""

    hidden: Tensor
    logits: Any


class Result:
    """An object with attributes."""

    def __init__(self, logits: Any, hidden: Tensor) -> None:
        self.logits, self.hidden = logits, hidden


def _distributions(logits: Any) -> Any:
    if isinstance(logits, dict):
        return {name: Categorical(logits=item) for name, item in logits.items()}
    return [Categorical(logits=item) for item in logits] if isinstance(logits, list) else Categorical(logits=logits)


STRUCTURES: dict[str, Callable[[Any, Tensor], Any]] = {
    "plain": lambda logits, _: logits,
    "tuple": lambda logits, features: (features, logits),
    "dict": lambda logits, features: {"hidden": features, "out": logits},
    "dataclass": Outputs,
    "named tuple": lambda logits, features: Named(features, logits),
    "nested": lambda logits, features: [{"deep": (logits,)}, features],
    "object": Result,
    "distribution": lambda logits, features: (_distributions(logits), features),
    "namespace": lambda logits, features: SimpleNamespace(logits=logits, hidden=features),
}
_LOGITS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda outputs: outputs,
    "tuple": lambda outputs: outputs[1],
    "dict": lambda outputs: outputs["out"],
    "nested": lambda outputs: outputs[0]["deep"][0],
    "distribution": lambda outputs: outputs[0],
}


def class_outputs(structure: str, outputs: Any) -> list[Tensor]:
    """Return the tensors with a class dimension, which is the last one. This does not rely on the engine."""
    logits = _LOGITS[structure](outputs) if structure in _LOGITS else outputs.logits
    items = logits if isinstance(logits, list) else list(logits.values()) if isinstance(logits, dict) else [logits]
    return [item.logits if isinstance(item, Categorical) else item for item in items]
