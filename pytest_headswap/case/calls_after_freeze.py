"""Try calls of torch that often follow a freeze: `train`, `update_bn` and `convert_sync_batchnorm`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from pytest_headswap.engine import Swap
from pytest_headswap.engine.pytorch import ModuleState, named_modules, owner_path


def modules_in_train_mode(model: nn.Module, swap: Swap) -> list[str]:
    """Return the paths of backbone modules that `train()` puts into train mode. Restore all modes afterwards.

    The backbone is every module that neither owns a tensor of a head, nor is inside of a head, nor contains one.
    """
    return _try_calls(model, _backbone(model, swap), ())[0]


def effects_of_calls(model: nn.Module, swap: Swap) -> tuple[list[str], list[str]]:
    """Return `modules_in_train_mode`, and the statistics of the backbone that do not stay.

    `update_bn` may reset these statistics, or `convert_sync_batchnorm` may wake them. Of the norms beside a head and
    of those further away, one each is tried. Nothing runs, and all is restored.
    """
    backbone = _backbone(model, swap)
    norms: dict[bool, _Norm] = {}
    for path, module in backbone.items():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            parent, _, key = path.rpartition(".")
            norms.setdefault(parent in backbone, _Norm(path, key, module, model.get_submodule(parent)))
    return _try_calls(model, backbone, norms.values())


def still_trainable(model: nn.Module, swap: Swap) -> list[str]:
    """Return the names of parameters outside of the head that are still trainable."""
    new = {id(parameter) for parameter in swap.parameters()}
    return [name for name, value in model.named_parameters() if value.requires_grad and id(value) not in new]


class _Norm(NamedTuple):
    path: str
    key: str
    module: nn.Module
    parent: nn.Module


def _try_calls(
    model: nn.Module, backbone: Mapping[str, nn.Module], norms: Collection[_Norm]
) -> tuple[list[str], list[str]]:
    """Try the calls with other buffers in the place of those of the norms."""
    original_state = ModuleState(model)
    own = [(norm, dict(norm.module._buffers)) for norm in norms]
    planted = [
        (norm, key, torch.full(buffer.shape, 3, dtype=buffer.dtype, device="cpu"))
        for norm, buffers in own
        for key, buffer in buffers.items()
        if buffer is not None
    ]
    try:
        model.train()
        in_train_mode = [path for path, module in backbone.items() if module.training]
        if not norms:
            return in_train_mode, []
        for norm, key, buffer in planted:
            norm.module._buffers[key] = buffer.clone()
        update_bn((), nn.ModuleList(norm.module for norm in norms))
        for norm in norms:
            norm.parent._modules[norm.key] = nn.SyncBatchNorm.convert_sync_batchnorm(norm.module)  # type: ignore[no-untyped-call, unused-ignore]
        model.train()
        reset = [
            f"update_bn resets {norm.path}.{key}"
            for norm, key, buffer in planted
            if not torch.equal(norm.module.get_buffer(key), buffer)
        ]
        awake = [norm.path for norm in norms if model.get_submodule(norm.path).training]
        return in_train_mode, [*reset, *(f"convert_sync_batchnorm wakes {path}" for path in awake)]
    finally:
        for norm, buffers in own:
            norm.parent._modules[norm.key] = norm.module
            norm.module._buffers.update(buffers)
        original_state.restore()


def _backbone(model: nn.Module, swap: Swap) -> dict[str, nn.Module]:
    paths = {owner_path(name) for name in swap.state_dict()} | {head.path for head in swap.heads}
    named = named_modules(model, include_aliases=True)
    heads = {module for path, module in named if path in paths}
    inside = {path for path, module in named if module in heads}  # a head may have several names
    around = {prefix for path in inside for prefix in _prefixes(path)}
    return {
        path: module
        for path, module in named_modules(model)
        if path not in around and not any(path.startswith(f"{head}.") for head in inside if head)
    }


def _prefixes(path: str) -> Iterator[str]:
    yield ""
    parts = path.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))
