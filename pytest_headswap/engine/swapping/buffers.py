"""Fresh values for the buffers of a head that have one entry a class: those of a layer that was just built.

A buffer holds statistics, masks or constants, never random numbers of ours. Where the value of a fresh layer is
unknown, the new entries are made from the old ones so that their sign and scale stay, and a note names the buffer.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.detection.describe import WEIGHT, ClassTensor
from pytest_headswap.engine.swapping.transaction import Transaction

_SUM_TOLERANCE = 1e-3  # probabilities in half precision add up to 1 no closer than this
_PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.Size, torch.qscheme)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class NewTensor:
    """A class-sized tensor before and after: `key` is its name in its module."""

    spec: ClassTensor
    key: str
    old: torch.Tensor
    new: torch.Tensor

    @property
    def is_fixed_weight(self) -> bool:
        """Return whether it is the weight of the head and a buffer, which only a function of the user's can fill."""
        return self.spec.is_buffer and self.spec.part == WEIGHT

    def by_class(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views of the new tensor and of the old one, of shape (outer, classes, inner, ...)."""
        outer, inner = self.spec.outer, self.spec.inner
        first = [tensor.movedim(self.spec.dim, 0) for tensor in (self.new, self.old)]
        new, old = (x.view(outer, x.shape[0] // (outer * inner), inner, *x.shape[1:]) for x in first)
        return new, old


def fill_buffers(
    model: nn.Module, owner: nn.Module, items: Sequence[NewTensor], changes: Transaction
) -> tuple[list[str], list[str]]:
    """Give the new buffers of one module the values of a fresh layer, once its parameters have theirs.

    Returns:
        The names in it of other buffers that belong to these and were renewed as well, and a note for each new buffer
        whose fresh value is uncertain.
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
                notes.append(f"{name} has the values of a new {type(owner).__name__}: set them if yours differ")
        elif value is not None and value.numel() < 2 and item.old.numel() > 1:
            # an observer begins without a size, or with one entry for all, and takes its size from what it sees
            changes.set(owner._buffers, item.key, value.to(item.new.device, item.new.dtype))
        else:
            notes += _fill_from_old(item)
    for key, value in fresh.items():  # such as the other singular vector of a spectral norm
        old = owner._buffers.get(key)
        if old is not None and old.shape == value.shape and old.dim() and old.is_floating_point() and not old.is_meta:
            changes.set(owner._buffers, key, value.to(old.device, old.dtype))
            renewed.append(key)
    return renewed, notes


def _fresh_buffers(
    model: nn.Module, owner: nn.Module, name: str, class_sized: Collection[str]
) -> tuple[dict[str, torch.Tensor], bool]:
    """Return the buffers of another layer of this class, built with the attributes that are called like arguments.

    Returns:
        None of them where it cannot be built, and whether all its arguments are known.
    """
    if any(next(child.parameters(), None) is not None for child in owner.children()):
        return {}, False  # it is more than a layer
    arguments: dict[str, Any] = {}
    is_certain = True
    with suppress(Exception):  # a constructor may raise anything; the old values are the other way
        for key, parameter in inspect.signature(type(owner)).parameters.items():
            buffer = owner._buffers.get(key)
            if key in class_sized:
                return {}, False  # its values were given, and nobody has given new ones
            if buffer is not None:
                arguments[key] = buffer.item() if buffer.numel() == 1 else buffer
            elif key in owner._parameters:
                arguments[key] = owner._parameters[key] is not None  # such as `bias`
            elif isinstance(owner.__dict__.get(key, ...), _PLAIN):
                arguments[key] = owner.__dict__[key]
            elif parameter.kind in _VARIADIC or parameter.default is not parameter.empty:
                is_certain = False
            else:
                arguments[key] = _parametrized_tensor(model, name)
        built = type(owner)(**arguments)
        return {key: value for key, value in built._buffers.items() if value is not None}, is_certain
    return {}, False


def _parametrized_tensor(model: nn.Module, name: str) -> torch.Tensor:
    """Return what a parametrization is built with: the parameter that it is applied to; raises for other layers."""
    path, mark, rest = name.rpartition("parametrizations.")
    if not mark:
        raise LookupError(f"{name} does not belong to a parametrization")
    return model.get_parameter(f"{path}{mark}{rest.partition('.')[0]}.original")


def _fill_from_old(item: NewTensor) -> list[str]:
    name = item.spec.names[0]
    new, old = item.by_class()
    first = old[:, :1]
    if bool((old == old.flatten()[0]).all()):
        value = old.flatten()[0]
        if old.shape[1] > 1 and _adds_up_to_one(old):
            new.fill_(1 / new.shape[1])
        else:
            new.copy_(value.expand_as(new))
        return []
    if bool(((old == 0) | (old == 1)).all()):
        new.fill_(1)
        return [f"{name} was a mask over the old classes: it is 1 for every new class"]
    if bool((old == first).all()):
        new.copy_(first.expand_as(new))
        return []
    if not old.is_floating_point() and bool((old == first + _indices(old) * (old[:, 1:2] - first)).all()):
        new.copy_(first + _indices(new) * (old[:, 1:2] - first))  # such as the numbers of the classes
        return []
    if _adds_up_to_one(old):
        chance = 1 / new.shape[1]
        new.fill_(chance)
        return [f"{name} held the probability of each old class. Every new class has {chance:.3g}: set yours"]
    finite = old.isfinite()  # a mask over logits holds infinity
    values = torch.where(finite, old, torch.zeros_like(old)).to(old.dtype if old.is_complex() else torch.float64)
    mean = values.sum(1, keepdim=True) / finite.sum(1, keepdim=True).clamp(min=1)
    new.copy_((mean if new.is_floating_point() or new.is_complex() else mean.round()).expand_as(new))
    return [f"{name} held a value for each old class, and none is known for the new ones. Each has the mean: set yours"]


def _indices(classes: torch.Tensor) -> torch.Tensor:
    """Return the class indices, to be broadcast over (outer, classes, inner, ...)."""
    return torch.arange(classes.shape[1], device=classes.device).view(1, -1, *[1] * (classes.dim() - 2))


def _adds_up_to_one(old: torch.Tensor) -> bool:
    """Return whether these are the probabilities of the classes."""
    if not old.is_floating_point() or old.numel() != old.shape[1]:
        return False
    return bool((old >= 0).all()) and abs(float(old.double().sum()) - 1) < _SUM_TOLERANCE
