"""Give the layers of a head a new class count in place: the layer stays, its class-sized tensors are new.

Keeping the layer object keeps its class, geometry and hooks, every name it is registered under, and
whatever refers to it, and works alike for a Linear, a custom layer or a parameter of the model itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.find import ClassTensor, Found
from pytest_headswap.engine.identity import Place

# Attributes that state a class count. They are only kept in step, never used to find a head.
_COUNTS = ("num_classes", "num_labels", "n_classes", "nb_classes", "num_class", "n_class", "num_outputs")
_WIDTHS = ("out_features", "out_channels", "num_features", "num_embeddings", "out_dim", "output_dim")


class Transaction:
    """Changes to dictionaries (modules' registries and attributes) that can all be put back."""

    def __init__(self) -> None:
        self._undo: list[tuple[MutableMapping[str, Any], str, Any]] = []

    def set(self, mapping: MutableMapping[str, Any], key: str, value: Any) -> None:
        """`mapping[key] = value`, remembered."""
        self._undo.append((mapping, key, mapping[key]))
        mapping[key] = value

    def roll_back(self) -> None:
        """Put back what was there before the first change: the same objects, not copies."""
        while self._undo:
            mapping, key, value = self._undo.pop()
            mapping[key] = value


def resize_heads(
    model: nn.Module, found: Iterable[Found], num_classes: int, changes: Transaction
) -> dict[str, nn.Parameter]:
    """Resize every class-sized tensor of the heads; returns the new parameters by name.

    New parameters have the device and dtype of what they replace, and require gradients. A layer that
    knows how to initialise itself (`reset_parameters`) does so, as if it had just been built.
    """
    items = list(found)
    old_counts = {output.size for item in items for output in item.outputs}
    fresh: dict[str, nn.Parameter] = {}
    owners: dict[nn.Module, dict[str, torch.Tensor]] = {}
    for item in items:
        if item.place is not None:
            fresh.update(_fill_place(model, item.place, num_classes, changes))
        for tensor in item.tensors:
            old = _lookup(model, tensor.names[0])
            new = _resized(old, tensor, num_classes)
            if isinstance(new, nn.Parameter):
                fresh[tensor.names[0]] = new
            for module in model.modules():
                for registry in (module._parameters, module._buffers):
                    for key in [key for key, value in registry.items() if value is old]:
                        changes.set(registry, key, new)
                        owners.setdefault(module, {})[key] = new
    for owner, tensors in owners.items():
        _update_counts(owner, (*_COUNTS, *_WIDTHS), old_counts, num_classes, changes)
        _initialise(owner, tensors, changes)
    for module in model.modules():
        _update_counts(module, _COUNTS, old_counts | ({0} if not owners else set()), num_classes, changes)
    return fresh


def _lookup(model: nn.Module, name: str) -> torch.Tensor:
    path, _, key = name.rpartition(".")
    module = model.get_submodule(path)
    found: torch.Tensor | None = module._parameters.get(key)
    if found is None:
        found = module._buffers.get(key)
    if found is None:
        raise HeadSwapError("unsupported_layer", f"{name} is not a registered parameter or buffer")
    return found


def _resized(old: torch.Tensor, tensor: ClassTensor, num_classes: int) -> torch.Tensor:
    shape = list(old.shape)
    shape[tensor.dim] = tensor.outer * num_classes * tensor.inner
    new = torch.zeros(shape, dtype=old.dtype, device=old.device)
    if tensor.is_buffer:
        return new
    if not (old.is_floating_point() or old.is_complex()):
        raise HeadSwapError(
            "unsupported_layer",
            f"{tensor.names[0]} has dtype {old.dtype}: swap the head before quantising the model",
        )
    return nn.Parameter(new, requires_grad=True)


def _update_counts(
    module: nn.Module, names: Iterable[str], old: set[int], num_classes: int, changes: Transaction
) -> None:
    for name in names:
        value = module.__dict__.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value in old:
            changes.set(module.__dict__, name, num_classes)


def _initialise(owner: nn.Module, new: dict[str, torch.Tensor], changes: Transaction) -> None:
    """Give the new tensors of one layer values, and no other tensor of it."""
    reset = getattr(owner, "reset_parameters", None)
    parameters = {key for key, value in owner._parameters.items() if value is not None}
    if callable(reset) and parameters <= new.keys():
        for key, buffer in owner._buffers.items():
            if buffer is not None and key not in new:  # a counter such as num_batches_tracked is reset as well
                changes.set(owner._buffers, key, buffer.clone())
        reset()
        return
    weights = [value for value in new.values() if value.dim() > 1]
    fan_in = weights[0][0].numel() if weights else 0
    with torch.no_grad():
        for value in new.values():
            if value.dim() > 1:
                nn.init.kaiming_uniform_(value, a=math.sqrt(5))
            elif fan_in:
                bound = 1 / math.sqrt(fan_in)
                value.uniform_(-bound, bound)
            else:
                value.fill_(1.0)


def _fill_place(model: nn.Module, place: Place, num_classes: int, changes: Transaction) -> dict[str, nn.Parameter]:
    like = model.get_parameter(place.like) if place.like else next(model.parameters())
    layer = place.build(num_classes, like)
    identity = model.get_submodule(place.path)
    layer.train(identity.training)
    for module in model.modules():
        for key in [key for key, child in module._modules.items() if child is identity]:
            changes.set(module._modules, key, layer)
    return {f"{place.path}.{key}": value for key, value in layer.named_parameters()}
