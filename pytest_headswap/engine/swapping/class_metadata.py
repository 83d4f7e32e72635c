"""Update the class counts that a model stores when its head changes.

Losses and reports read these attributes. The engine never uses them to find a head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from pytest_headswap._numbers import as_count
from pytest_headswap.engine.pytorch.modules import named_modules, named_parameters
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
    counts_at: Callable[[str], Mapping[int, int]],
    changes: Transaction,
    near: Collection[str],
    shared: Collection[str],
    containing: Collection[str] | None = None,
) -> list[str]:
    """Update the class counts of the model, its submodules and their configurations.

    A module of the backbone that has a tensor of the old class count keeps its numbers: they describe that tensor.

    Args:
        model: the model, with its new head.
        counts_at: returns the new class count for each old one that a module may store, by its path. Attributes with
            another value are kept.
        changes: records every change.
        near: paths of the head's layers and of the modules that contain them.
        shared: paths of modules with heads that had one class count and now differ. They are not updated.
        containing: paths of heads; only modules that contain one of them are updated. Needed for a model without a
            head, where the old count of 0 also matches unrelated modules. None: all modules.

    Returns:
        Notes for the user.
    """
    seen: set[int] = set()
    notes: list[str] = []
    for path, module in named_modules(model):
        if containing is not None and not any(not path or head.startswith(f"{path}.") for head in containing):
            continue
        owners = (module.__dict__, getattr(config_of(module), "__dict__", None), module._buffers)
        states = [state for state in owners if state is not None and id(state) not in seen]
        seen.update(map(id, states))
        counts = counts_at(path)
        if path in shared or not any(_stored(state, CLASS_COUNT_NAMES, counts) for state in states):
            continue
        if path not in near and _has_tensor_of(module, counts):
            continue
        for state in states:
            _update(state, CLASS_COUNT_NAMES, counts, changes)
    for owner, name in ((model, ""), (config_of(model), "config.")) if not shared else ():
        notes += _forget_problem_type(getattr(owner, "__dict__", {}), name, counts_at(""), changes)
    return notes


def _forget_problem_type(
    state: dict[str, Any], prefix: str, counts: Mapping[int, int], changes: Transaction
) -> list[str]:
    """Reset the kind of loss that was chosen for one class, or for several classes, if the other is now the case."""
    kind = state.get("problem_type")
    crosses = any((old == 1) != (new == 1) and new for old, new in counts.items())
    if not crosses or kind not in ("regression", "single_label_classification"):
        return []
    changes.set(state, "problem_type", None)
    return [f"{prefix}problem_type was {kind!r}, for the old class count. It is now None, so the next loss chooses it"]


def untie(model: nn.Module, changes: Transaction) -> list[str]:
    """Switch off the option that ties the head to another tensor, which the old head shared. Return notes."""
    notes = []
    for owner, prefix in ((model, ""), (config_of(model), "config.")):
        state = owner if isinstance(owner, dict) else getattr(owner, "__dict__", {})
        for key in [key for key, value in state.items() if value is True and str(key).startswith("tie_")]:
            replaced = changes.replaced_tensors()
            if any(id(tensor) in replaced for _, tensor in named_parameters(model)):
                changes.set(state, key, False)
                notes.append(f"{prefix}{key} is now False: tied weights would put the old head back")
    return notes


def _has_tensor_of(module: nn.Module, counts: Mapping[int, int]) -> bool:
    tensors = (*module.parameters(), *module.buffers())
    return any(size in counts and size > 1 for tensor in tensors for size in tensor.shape)


def config_of(module: nn.Module) -> Any:
    """Return the configuration of a module, or None. Plain `getattr` is slow: it raises for most modules."""
    return getattr(module, "config", None) if "config" in module.__dict__ or hasattr(type(module), "config") else None


def _stored(state: Mapping[str, Any], keys: Iterable[str], counts: Collection[int]) -> dict[str, int]:
    found = {key: as_count(state[key]) for key in keys if key in state}
    return {key: count for key, count in found.items() if count is not None and count in counts}


def _update(state: dict[str, Any], keys: Iterable[str], numbers: Mapping[int, int], changes: Transaction) -> None:
    for key, count in _stored(state, keys, numbers).items():
        changes.set(state, key, like_type_of(state[key], numbers[count]))


def like_type_of(value: Any, count: int) -> Any:
    """Return `count` in the type of `value`: a Python or NumPy number, an array without dimensions, or a tensor."""
    if isinstance(value, int):
        return count
    if isinstance(value, torch.Tensor):
        return value.new_tensor(count)
    if hasattr(type(value), "__setitem__"):
        array = copy.copy(value)
        array[...] = count
        return array
    return type(value)(count)
