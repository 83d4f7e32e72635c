"""Update the class counts and class names that a model stores when its head changes.

Losses and reports read these attributes. The engine never uses them to find a head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pytest_headswap._numbers import as_count
from pytest_headswap.engine.pytorch.modules import named_modules
from pytest_headswap.engine.swapping.transaction import Transaction

CLASS_COUNT_NAMES = (
    "num_classes",
    "num_labels",
    "n_classes",
    "nb_classes",
    "num_class",
    "n_class",
)
WIDTH_NAMES = ("out_features", "out_channels", "num_features", "num_embeddings")
_CONTAINER_WIDTH_NAMES = (
    "out_features",
    "out_channels",
    "out_dim",
    "output_dim",
    "output_num_channels",
    "num_outputs",
    "num_columns",
)
_INPUT_WIDTH_NAMES = ("in_features", "in_channels", "input_size")
_LABEL_MAPPING_NAMES = ("id2label", "label2id")


def update_layer_widths(
    layer: nn.Module, widths: Mapping[int, int], changes: Transaction, *, takes_classes: bool = False
) -> None:
    """Update the widths that a layer of the head stores. `widths` maps old widths to new ones.

    With `takes_classes`, the layer reads classes, so its input width changes too.
    """
    names = (*CLASS_COUNT_NAMES, *WIDTH_NAMES, *(_INPUT_WIDTH_NAMES if takes_classes else ("embedding_dim",)))
    _update(layer.__dict__, names, widths, changes)


def update_container_widths(model: nn.Module, layer: str, old: int, new: int, changes: Transaction) -> None:
    """Update the output widths stored by the modules that contain a layer of the head."""
    parts = layer.split(".")
    for count in range(len(parts)):
        _update(model.get_submodule(".".join(parts[:count])).__dict__, _CONTAINER_WIDTH_NAMES, {old: new}, changes)


def update_class_metadata(
    model: nn.Module,
    old: set[int],
    new: int,
    names: Sequence[str] | None,
    changes: Transaction,
    containing: Collection[str] | None = None,
) -> None:
    """Update the class counts and label names of the model, its submodules and their configurations.

    Args:
        model: the model.
        old: old class counts; attributes with another value are kept.
        new: the new class count.
        names: names of the new classes. None: `LABEL_0`, `LABEL_1`, ...
        changes: records every change.
        containing: paths of heads; only modules that contain one of them are updated. Needed for a model without a
            head, where the old count of 0 also matches unrelated modules. None: all modules.
    """
    seen: set[int] = set()
    for path, module in named_modules(model):
        if containing is not None and not any(not path or head.startswith(f"{path}.") for head in containing):
            continue
        for owner in (module, config_of(module)):
            state = getattr(owner, "__dict__", None)
            if state is None or id(owner) in seen:
                continue
            seen.add(id(owner))
            _update(state, CLASS_COUNT_NAMES, dict.fromkeys(old, new), changes)
            _update_label_names(state, old, new, names, changes)


def config_of(module: nn.Module) -> Any:
    """Return the configuration of a module, or None. Plain `getattr` is slow: it raises for most modules."""
    return getattr(module, "config", None) if "config" in module.__dict__ or hasattr(type(module), "config") else None


def class_names(model: nn.Module) -> dict[str, int]:
    """Return the index of each class name in the `id2label` of the configuration or of the model."""
    for owner in (getattr(model, "config", None), model):
        labels = getattr(owner, "id2label", None)
        if isinstance(labels, Mapping):
            return {str(name): int(index) for index, name in labels.items()}
    return {}


def _update(state: dict[str, Any], keys: Iterable[str], numbers: Mapping[int, int], changes: Transaction) -> None:
    for key in keys:
        value = state.get(key)
        count = as_count(value)
        if count is not None and count in numbers:
            changes.set(state, key, like_type_of(value, numbers[count]))


def like_type_of(value: Any, count: int) -> Any:
    """Return `count` in the type of `value`: an `int`, a NumPy integer or a tensor."""
    if isinstance(value, int):
        return count
    return value.new_tensor(count) if isinstance(value, torch.Tensor) else type(value)(count)


def _update_label_names(
    state: dict[str, Any], old: set[int], new: int, names: Sequence[str] | None, changes: Transaction
) -> None:
    for key in _LABEL_MAPPING_NAMES:
        value = state.get(key)
        if isinstance(value, Mapping) and len(value) in old:
            fresh = {index: (names[index] if names is not None else f"LABEL_{index}") for index in range(new)}
            changes.set(state, key, fresh if key == "id2label" else {name: index for index, name in fresh.items()})
