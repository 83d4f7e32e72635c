"""Values for a new head. Always finite, whatever the layer is and whether it can initialise itself or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from pytest_headswap.engine._torch import initialised_cuda_devices
from pytest_headswap.engine.describe import BIAS, WEIGHT, ClassTensor
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.transaction import Transaction

INITS = ("default", "zeros", "normal", "statistics", "prior")
Init = str | Callable[[str, torch.Tensor], None]

_NORMAL_STD = 0.01
_PRIOR = 0.01  # Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4.1


@dataclass(frozen=True)
class NewTensor:
    """A class-sized tensor before and after: `key` is its name in its module."""

    spec: ClassTensor
    key: str
    old: torch.Tensor
    new: torch.Tensor


def check_init(init: object) -> None:
    """Raises HeadSwapError `bad_argument` for what is no way to initialise."""
    if not callable(init) and init not in INITS:
        raise HeadSwapError(
            "bad_argument", f"init must be one of {', '.join(INITS)} or a function of (name, tensor), not {init!r}"
        )


@contextmanager
def seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Draw all random numbers of the block from `generator`, so that torch's own initialisers are reproducible too."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device).item())
    with torch.random.fork_rng(initialised_cuda_devices()):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def initialise(owner: nn.Module, tensors: Sequence[NewTensor], init: Init, changes: Transaction) -> list[str]:
    """Give the new tensors of one layer values; returns the names in it of buffers that were renewed as well.

    `default` is what the layer does when it is built (`reset_parameters`), or Kaiming uniform for
    weights and the mean of the old values for anything with one number a class.
    """
    renewed = _reset(owner, tensors, changes)
    if renewed is None:
        for item in tensors:
            _default(item)
    for item in tensors:
        if callable(init):
            init(item.spec.names[0], item.new)
        elif not item.spec.is_buffer:
            _otherwise(init, item)
    return renewed or []


def _reset(owner: nn.Module, tensors: Sequence[NewTensor], changes: Transaction) -> list[str] | None:
    """Let the layer initialise itself, when all of its parameters are new anyway; None when it cannot.

    Its other buffers, such as `num_batches_tracked`, are reset with them: copies, whose names are returned.
    """
    new = {item.key for item in tensors}
    reset = getattr(owner, "reset_parameters", None)
    derived = any(isinstance(value, torch.Tensor) for value in owner.__dict__.values())  # by weight_norm's hook
    own = {key for key, value in owner._parameters.items() if value is not None}
    if not callable(reset) or derived or not own <= new or not own:
        return None
    others = {key: buffer for key, buffer in owner._buffers.items() if buffer is not None and key not in new}
    for key, buffer in others.items():
        changes.set(owner._buffers, key, buffer.clone())
    reset()
    return list(others)


def _default(item: NewTensor) -> None:
    new, dim = item.new, item.spec.dim
    for_each_class = new.numel() // new.shape[dim]
    if for_each_class > 1 and not item.spec.is_buffer:
        weight = new.movedim(dim, 0).reshape(new.shape[dim], -1)
        bound = 1 / math.sqrt(weight.shape[1])  # torch's own for Linear and convolutions
        new.uniform_(-bound, bound)
    elif item.old.is_meta or not item.old.numel():
        new.zero_()
    elif not new.is_floating_point():
        new.copy_(item.old.flatten()[0].expand_as(new))
    elif item.spec.is_buffer and item.old.std(correction=0) > 0:
        # such as the singular vector of spectral norm, which must not be zero: as random and as long as it was
        new.normal_()
        new.mul_(item.old.norm() / new.norm())
    else:
        new.fill_(item.old.float().mean())


def _otherwise(init: str, item: NewTensor) -> None:
    part, new, old = item.spec.part, item.new, item.old
    if init == "zeros" and part in (WEIGHT, BIAS):
        new.zero_()
    elif init == "statistics" and not old.is_meta:
        spread = old.float().std(correction=0)
        new.copy_(torch.randn(new.shape, device=new.device) * spread + old.float().mean())
    elif init in ("normal", "prior"):
        if part == WEIGHT:
            new.normal_(0.0, _NORMAL_STD)
        elif part == BIAS:
            new.fill_(-math.log((1 - _PRIOR) / _PRIOR) if init == "prior" else 0.0)


@torch.no_grad()
def carry_over(tensors: Sequence[NewTensor], classes: dict[int, int], count: int, old_count: int) -> None:
    """Copy what belongs to old classes: `classes` maps a new class index to an old one."""
    if not classes:
        return
    for item in tensors:
        spec = item.spec
        new, old = _by_class(item.new, spec, count), _by_class(item.old, spec, old_count)
        if new.is_meta:
            continue
        new[:, list(classes)] = old[:, list(classes.values())]


def _by_class(tensor: torch.Tensor, spec: ClassTensor, count: int) -> torch.Tensor:
    """A view of shape (outer, classes, inner, ...)."""
    first = tensor.movedim(spec.dim, 0)
    return first.view(spec.outer, count, spec.inner, *first.shape[1:])
