"""Initialise a new head.

The values are always finite, whether or not the layer can initialise itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.detection.describe import BIAS, WEIGHT
from pytest_headswap.engine.pytorch.weight_hooks import refresh_spectral_norm
from pytest_headswap.engine.swapping.buffers import NewTensor, fill_buffers
from pytest_headswap.engine.swapping.parametrized import ComputedTensor, plain_layer
from pytest_headswap.engine.swapping.transaction import Transaction

INITS = ("default", "zeros", "prior")
Init = str | Callable[[str, torch.Tensor], None]

# Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4.1 ("Initialization")
_PRIOR_STD = 0.01
_PRIOR_PROBABILITY = 0.01


@torch.no_grad()
def initialize(
    model: nn.Module,
    by_owner: Mapping[nn.Module, Sequence[NewTensor]],
    computed: Mapping[ComputedTensor, NewTensor],
    init: Init,
    classes: Mapping[int, int],
    changes: Transaction,
) -> tuple[list[tuple[nn.Module, str]], list[str]]:
    """Initialise the new tensors of a head: parameters first, then buffers.

    With `default`, a layer whose parameters are all new initialises itself with `reset_parameters`. Otherwise weights
    are uniform within 1 / sqrt(fan_in), and tensors with one number per class get the mean of the old values.

    Args:
        model: the model.
        by_owner: new tensors by the module that owns them.
        computed: the tensors that layers compute from new ones. They are initialised, and then stored.
        init: a name from `INITS`, or a function of (name, tensor).
        classes: maps new class indices to the old ones whose values are kept.
        changes: records every change.

    Returns:
        Other tensors that were renewed, as pairs of module and name, and notes for the user.

    Raises:
        HeadSwapError: `bad_argument` or `unsupported_layer`, if a computed tensor cannot have the new values.
    """
    stored = {name for item in computed for name in item.stored}
    groups = {owner: [item for item in items if item.spec.names[0] not in stored] for owner, items in by_owner.items()}
    for tensor, item in computed.items():
        groups.setdefault(tensor.layer, []).append(item)
    new = {id(item.new) for items in groups.values() for item in items}
    renewed: list[tuple[nn.Module, str]] = []
    filled: set[int] = set()
    for owner, items in groups.items():
        values = {item.key: item.new for tensor, item in computed.items() if tensor.layer is owner}
        done = _reset(owner, plain_layer(owner, values) if values else owner, items, new, changes, renewed)
        filled |= {id(item.new) for item in items if item.is_fixed_weight or done.get(item.key)}
        for item in items if not done else ():
            _apply_default(item)
    everything = [item for items in groups.values() for item in items]
    initialized = [item for item in everything if not item.spec.is_buffer or item.is_fixed_weight]
    for item in initialized:
        apply_init(init, item)
    for item in initialized:
        item.copy_rows(classes)
    for tensor, item in computed.items():
        renewed += tensor.store(item.new.detach(), changes)
        for added in tensor.added_to(groups) if not callable(init) else ():
            tensor.make_neutral(added, item.new.detach())
    others, notes = _fill_buffers(model, groups, filled, classes, changes)
    renewed += others
    for tensor, item in computed.items():
        if classes:
            items = [made for made in itertools.chain(*by_owner.values()) if made.spec.names[0] in tensor.stored]
            tensor.keep_rows(item, [made for made in items if not made.spec.is_buffer], classes)
        notes += tensor.finish(item.new.detach(), init if isinstance(init, str) else "", bool(classes), changes)
    return renewed, notes


def _fill_buffers(
    model: nn.Module,
    by_owner: Mapping[nn.Module, Sequence[NewTensor]],
    filled: Collection[int],
    classes: Mapping[int, int],
    changes: Transaction,
) -> tuple[list[tuple[nn.Module, str]], list[str]]:
    """Fill the new buffers but those with the ids `filled`, and keep the rows of old classes.

    Returns:
        Other buffers that were renewed, as pairs of module and name, and notes for the user.
    """
    renewed: list[tuple[nn.Module, str]] = []
    notes: list[str] = []
    for owner, items in by_owner.items():
        derived: set[str] = set()  # Buffers that depend on the new weight, such as its singular vectors.
        if not _is_permutation(items, classes):
            derived.update(refresh_spectral_norm(owner, changes))
            unfilled = [x for x in items if x.spec.is_buffer and x.key not in derived and id(x.new) not in filled]
            # a parametrization that stores a value may assign buffers of its own
            unfilled = [item for item in unfilled if owner._buffers.get(item.key) is item.new]
            others, uncertain = fill_buffers(model, owner, unfilled, changes)
            renewed += [(owner, key) for key in (*derived, *others)]
            notes += uncertain if any(item.by_class()[0].shape[1] > len(classes) for item in unfilled) else ()
            if others and "parametrizations." in items[0].spec.names[0]:
                derived.update(item.key for item in unfilled)
        for item in items:
            if item.spec.is_buffer and not item.is_fixed_weight and item.key not in derived:
                item.copy_rows(classes)
    return renewed, notes


def _reset(
    owner: nn.Module,
    plain: nn.Module,
    items: Sequence[NewTensor],
    new: set[int],
    changes: Transaction,
    renewed: list[tuple[nn.Module, str]],
) -> dict[str, bool]:
    """Call `reset_parameters` if all parameters of the layer are new.

    This also resets its other buffers, such as `num_batches_tracked`: they are replaced by copies first and added to
    `renewed`. `plain` is the layer with its computed tensors as parameters.

    Returns:
        For each new tensor, whether it is initialised now. Empty if the layer cannot initialise itself.
    """
    reset = getattr(plain, "reset_parameters", None)
    derived = any(isinstance(value, torch.Tensor) for value in plain.__dict__.values())
    if not callable(reset) or derived or any(id(parameter) not in new for parameter in plain.parameters()):
        return {}
    for module in plain.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None and id(buffer) not in new:
                changes.set(module._buffers, key, buffer.clone())
                renewed.append((owner if module is plain else module, key))
    versions = {item.key: item.new._version for item in items}
    works = False
    with suppress(Exception):  # such as a layer whose own hook computes its weight
        reset()
        works = True
    for item in items:
        registry: dict[str, Any] = plain._buffers if item.spec.is_buffer else plain._parameters
        value = registry.get(item.key)
        if value is not None and value is not item.new:  # reset_parameters assigned a new tensor
            item.new.copy_(value)
            registry[item.key] = item.new
    done = {item.key: not item.spec.is_buffer or item.new._version > versions[item.key] for item in items}
    return done if works else {}


def _apply_default(item: NewTensor) -> None:
    new, dim = item.new, item.spec.dim
    if item.spec.is_buffer:
        return
    if new.numel() > new.shape[dim]:
        weight = new.movedim(dim, 0).reshape(new.shape[dim], -1)
        bound = 1 / math.sqrt(weight.shape[1])  # the bound that torch uses for Linear and convolutions
        new.uniform_(-bound, bound)
    elif item.old.is_meta or not item.old.numel():
        new.zero_()
    else:
        new.fill_(item.old.float().mean())


@torch.no_grad()
def apply_init(init: Init, item: NewTensor) -> None:
    """Fill a weight or bias as the initialisation says, on top of the default."""
    part, new = item.spec.part, item.new
    if callable(init):
        init(item.spec.names[0], new)
    elif init == "zeros" and part in (WEIGHT, BIAS):
        new.zero_()
    elif init == "prior" and part == WEIGHT:
        new.normal_(0.0, _PRIOR_STD)
    elif init == "prior" and part == BIAS:
        new.fill_(-math.log((1 - _PRIOR_PROBABILITY) / _PRIOR_PROBABILITY))


def _is_permutation(items: Sequence[NewTensor], classes: Mapping[int, int]) -> bool:
    """Return whether the new classes are the old ones, in any order: then buffers keep their values as well."""
    counts = {made.shape[1] for item in items[:1] for made in item.by_class()}
    return len(counts) == 1 and counts == {len(classes)} == {len(set(classes.values()))}
