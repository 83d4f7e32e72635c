"""Fill the class-sized buffers of a new head with the values that a newly built layer would have.

A buffer holds statistics, masks or constants, so it is never filled with random numbers. If the value in a newly
built layer is unknown, new entries are derived from the old ones. They keep the sign and scale, and a note names the
buffer.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.detection.describe import WEIGHT, ClassTensor
from pytest_headswap.engine.swapping.transaction import Transaction

_SUM_TOLERANCE = 1e-3  # rounding error of a sum of half-precision probabilities
_PLAIN_TYPES = (bool, int, float, complex, str, type(None), torch.dtype, torch.Size, torch.qscheme)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class NewTensor:
    """A class-sized tensor before and after the swap. `key` is its name within its module."""

    spec: ClassTensor
    key: str
    old: torch.Tensor
    new: torch.Tensor

    @property
    def is_fixed_weight(self) -> bool:
        """Return whether this is the head's weight stored as a buffer, which only a user's `init` function can fill."""
        return self.spec.is_buffer and self.spec.part == WEIGHT

    def by_class(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views of the new and the old tensor, both of shape (outer, classes, inner, ...)."""
        outer, inner = self.spec.outer, self.spec.inner
        first = [tensor.movedim(self.spec.dim, 0) for tensor in (self.new, self.old)]
        new, old = (x.view(outer, x.shape[0] // (outer * inner), inner, *x.shape[1:]) for x in first)
        return new, old

    def copy_rows(self, classes: Mapping[int, int]) -> None:
        """Copy the values of old classes. `classes` maps new class indices to old ones."""
        if self.new.is_meta or not classes:
            return
        if self.spec.more:  # such as a layer from classes to classes
            dims = [self.spec.dim, *(dim for dim, _, _ in self.spec.more)]
            new, old = (tensor.movedim(dims, list(range(len(dims)))) for tensor in (self.new, self.old))
            new_index, old_index = (
                torch.meshgrid(*[torch.tensor(list(indices), device=new.device)] * len(dims), indexing="ij")
                for indices in (classes, classes.values())
            )
            new[new_index] = old[old_index]
            return
        new, old = self.by_class()
        new[:, list(classes)] = old[:, list(classes.values())]


def fill_buffers(
    model: nn.Module, owner: nn.Module, items: Sequence[NewTensor], changes: Transaction
) -> tuple[list[str], list[str]]:
    """Fill the new buffers of one module as in a newly built layer. Call this after its parameters are initialised.

    Returns:
        The names of dependent buffers in the module that were renewed as well, and a note for each new buffer whose
        value is uncertain.
    """
    if not items:
        return [], []
    fresh, is_certain = _fresh_buffers(model, owner, items[0].spec.names[0], {item.key for item in items})
    renewed, notes = [], []
    for item in items:
        name, value = item.spec.names[0], fresh.pop(item.key, None)
        if item.new.is_meta:
            continue
        if value is not None and value.shape == item.new.shape:
            item.new.copy_(value)
            if not is_certain:
                notes.append(
                    f"{name} has the values of a newly built {type(owner).__name__}: set your own if they differ"
                )
        elif value is not None and value.numel() < 2 and item.old.numel() > 1:
            # A quantisation observer starts empty or with a single entry, and takes its size from its first input.
            changes.set(owner._buffers, item.key, value.to(item.new.device, item.new.dtype))
        else:
            notes += _fill_from_old(item)
    for key, value in fresh.items():  # such as the other singular vector of spectral norm
        old = owner._buffers.get(key)
        if old is not None and old.shape == value.shape and old.dim() and old.is_floating_point() and not old.is_meta:
            changes.set(owner._buffers, key, value.to(old.device, old.dtype))
            renewed.append(key)
    return renewed, notes


def _fresh_buffers(
    model: nn.Module, owner: nn.Module, name: str, class_sized: Collection[str]
) -> tuple[dict[str, torch.Tensor], bool]:
    """Build another layer of the same class and return its buffers.

    The constructor receives each attribute of `owner` that has the name of an argument.

    Returns:
        The buffers, empty if the layer cannot be built, and whether all constructor arguments are known.
    """
    if any(next(child.parameters(), None) is not None for child in owner.children()):
        return {}, False  # a container, not a layer
    arguments: dict[str, Any] = {}
    is_certain = True
    with suppress(Exception):  # A constructor may raise anything; the caller then derives values from the old ones.
        for key, parameter in inspect.signature(type(owner)).parameters.items():
            buffer = owner._buffers.get(key)
            if key in class_sized:
                return {}, False  # The user passed these values in, and there are none for the new classes.
            if buffer is not None:
                arguments[key] = buffer.item() if buffer.numel() == 1 else buffer
            elif key in owner._parameters:
                arguments[key] = owner._parameters[key] is not None  # such as `bias`
            elif isinstance(owner.__dict__.get(key, ...), _PLAIN_TYPES):
                arguments[key] = owner.__dict__[key]
            elif parameter.kind in _VARIADIC or parameter.default is not parameter.empty:
                is_certain = False
            else:
                arguments[key] = _parametrized_tensor(model, name)
        built = type(owner)(**arguments)
        return {key: value for key, value in built._buffers.items() if value is not None}, is_certain
    return {}, False


def _parametrized_tensor(model: nn.Module, name: str) -> torch.Tensor:
    """Return the tensor that a parametrization is built with. Raise LookupError for other layers."""
    path, mark, rest = name.rpartition("parametrizations.")
    if not mark:
        raise LookupError(f"{name} does not belong to a parametrization")
    attribute, index, *_ = rest.split(".")
    source: Any = model.get_submodule(f"{path}{mark}{attribute}")
    tensors = (
        [source.original] if source.is_tensor else [getattr(source, f"original{i}") for i in range(source.ntensors)]
    )
    for module in list(source)[: int(index)]:
        tensors = [module(*tensors)]
    return tensors[0]  # type: ignore[no-any-return]


def _fill_from_old(item: NewTensor) -> list[str]:
    name = item.spec.names[0]
    new, old = item.by_class()
    first = old[:, :1]
    is_equal = bool((old == old.flatten()[0]).all())
    if old.is_floating_point() and old.shape[1] > 1 and _adds_up_to_one(old.double().exp()):
        new.fill_(-math.log(new.shape[1]))
        if is_equal:
            return []
        return [f"{name} held the log-probability of each old class. Every new class gets the same: set your own"]
    if is_equal:
        value = old.flatten()[0]
        if old.shape[1] > 1 and _adds_up_to_one(old):
            new.fill_(1 / new.shape[1])
        else:
            new.copy_(value.expand_as(new))
        return []
    if bool(((old == 0) | (old == 1)).all()):
        new.fill_(1)
        return [f"{name} was a mask over the old classes. It is now 1 for every new class"]
    if bool((old == first).all()):
        new.copy_(first.expand_as(new))
        return []
    if not old.is_floating_point() and bool((old == first + _indices(old) * (old[:, 1:2] - first)).all()):
        new.copy_(first + _indices(new) * (old[:, 1:2] - first))  # such as class indices
        return []
    if _adds_up_to_one(old):
        probability = 1 / new.shape[1]
        new.fill_(probability)
        return [f"{name} held the probability of each old class. Every new class gets {probability:.3g}: set your own"]
    finite = old.isfinite()  # Masks over logits hold infinity.
    values = torch.where(finite, old, torch.zeros_like(old)).to(old.dtype if old.is_complex() else torch.float64)
    mean = values.sum(1, keepdim=True) / finite.sum(1, keepdim=True).clamp(min=1)
    new.copy_((mean if new.is_floating_point() or new.is_complex() else mean.round()).expand_as(new))
    return [f"{name} held a value for each old class. Every new class gets the mean of those: set your own"]


def _indices(classes: torch.Tensor) -> torch.Tensor:
    """Return the class indices in a shape that broadcasts over (outer, classes, inner, ...)."""
    return torch.arange(classes.shape[1], device=classes.device).view(1, -1, *[1] * (classes.dim() - 2))


def _adds_up_to_one(old: torch.Tensor) -> bool:
    """Return whether the values are class probabilities: not negative, with a sum of 1."""
    if not old.is_floating_point() or old.numel() != old.shape[1]:
        return False
    return bool((old >= 0).all()) and abs(float(old.double().sum()) - 1) < _SUM_TOLERANCE
