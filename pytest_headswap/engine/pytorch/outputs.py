"""Label each tensor in the output of a model with an expression that the user can read and paste."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch


def flatten_outputs(outputs: Any, label: str = "output") -> list[tuple[str, torch.Tensor]]:
    """Return the labelled tensors of a model's output, depth first, in their original order.

    Tuples, lists, mappings and dataclasses are searched, which covers the output classes of transformers. Labels are
    access expressions: `output`, `output[1]`, `output['aux']`, `output.logits`.
    """
    if isinstance(outputs, torch.Tensor):
        return [(label, outputs)]
    items: list[tuple[str, Any]]
    if isinstance(outputs, Mapping):
        items = [(f"{label}[{key!r}]", value) for key, value in outputs.items()]
    elif isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        items = [(f"{label}.{name}", getattr(outputs, name)) for name in outputs._fields]
    elif isinstance(outputs, (tuple, list)):
        items = [(f"{label}[{index}]", value) for index, value in enumerate(outputs)]
    elif dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        items = [(f"{label}.{field.name}", getattr(outputs, field.name)) for field in dataclasses.fields(outputs)]
    else:
        return []
    return [pair for name, value in items for pair in flatten_outputs(value, name)]
