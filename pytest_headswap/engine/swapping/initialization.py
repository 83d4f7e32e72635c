"""Values for a new head. Always finite, whatever the layer is and whether it can initialise itself or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from pytest_headswap.engine.detection.describe import BIAS, WEIGHT
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.internals import initialised_cuda_devices, refresh_spectral_norm
from pytest_headswap.engine.swapping.buffers import NewTensor, fill_buffers
from pytest_headswap.engine.swapping.transaction import Transaction

INITS = ("default", "zeros", "normal", "statistics", "prior")
Init = str | Callable[[str, torch.Tensor], None]

_NORMAL_STD = 0.01
_PRIOR = 0.01  # Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4.1


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
def initialise(
    model: nn.Module,
    by_owner: Mapping[nn.Module, Sequence[NewTensor]],
    init: Init,
    classes: Mapping[int, int],
    changes: Transaction,
) -> tuple[list[tuple[nn.Module, str]], list[str]]:
    """Give the new tensors of a head values, by the modules that own them; parameters first, then buffers.

    `default` is what a layer does when it is built (`reset_parameters`), or Kaiming uniform for weights and the mean
    of the old values for anything with one number a class. `classes` maps new class indices to old ones whose values
    are carried over.

    Returns:
        The other buffers that were renewed as well, by module and name, and notes for the user.
    """
    new = {id(item.new) for items in by_owner.values() for item in items}
    renewed: list[tuple[nn.Module, str]] = []
    left: dict[nn.Module, list[NewTensor]] = {}
    for owner, items in by_owner.items():
        done = _reset(owner, items, new, changes, renewed)
        left[owner] = [item for item in items if item.spec.is_buffer and not done.get(item.key)]
        for item in items:
            if not item.spec.is_buffer and not done:
                _default(item)
    everything = [item for items in by_owner.values() for item in items]
    chosen = [item for item in everything if not item.spec.is_buffer or item.is_fixed_weight]
    for item in chosen:
        if callable(init):
            init(item.spec.names[0], item.new)
        else:
            _otherwise(init, item)
    carry_over(chosen, classes)
    notes: list[str] = []
    for owner, items in left.items():
        refreshed = refresh_spectral_norm(owner, changes)
        renewed += [(owner, key) for key in refreshed]
        items = [item for item in items if item.key not in refreshed and not item.is_fixed_weight]
        others, uncertain = fill_buffers(model, owner, items, changes)
        renewed += [(owner, key) for key in others]
        notes += uncertain
    carry_over([item for item in everything if item.spec.is_buffer and not item.is_fixed_weight], classes)
    return renewed, notes


def _reset(
    owner: nn.Module,
    items: Sequence[NewTensor],
    new: set[int],
    changes: Transaction,
    renewed: list[tuple[nn.Module, str]],
) -> dict[str, bool]:
    """Let the layer initialise itself, where all of its parameters are new anyway.

    Its other buffers, such as `num_batches_tracked`, are reset with them: copies, which are added to `renewed`.

    Returns:
        For each of its new tensors whether it has a value now; nothing where the layer cannot initialise itself.
    """
    reset = getattr(owner, "reset_parameters", None)
    derived = any(isinstance(value, torch.Tensor) for value in owner.__dict__.values())  # by weight_norm's hook
    if not callable(reset) or derived or any(id(parameter) not in new for parameter in owner.parameters()):
        return {}
    for module in owner.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None and id(buffer) not in new:
                changes.set(module._buffers, key, buffer.clone())
                renewed.append((module, key))
    versions = {item.key: item.new._version for item in items}
    reset()
    for item in items:
        value = owner._buffers.get(item.key) if item.spec.is_buffer else None
        if value is not None and value is not item.new:  # assigned anew
            item.new.copy_(value)
            owner._buffers[item.key] = item.new
    return {item.key: not item.spec.is_buffer or item.new._version > versions[item.key] for item in items}


def _default(item: NewTensor) -> None:
    new, dim = item.new, item.spec.dim
    if new.numel() > new.shape[dim]:
        weight = new.movedim(dim, 0).reshape(new.shape[dim], -1)
        bound = 1 / math.sqrt(weight.shape[1])  # torch's own for Linear and convolutions
        new.uniform_(-bound, bound)
    elif item.old.is_meta or not item.old.numel():
        new.zero_()
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


def carry_over(items: Sequence[NewTensor], classes: Mapping[int, int]) -> None:
    """Copy what belongs to old classes: `classes` maps a new class index to an old one."""
    for item in items if classes else ():
        new, old = item.by_class()
        if not new.is_meta:
            new[:, list(classes)] = old[:, list(classes.values())]
