"""The hooks of `torch.nn.utils` that compute a tensor of a layer from stored ones before each forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_POWER_ITERATIONS = 15


@dataclass(frozen=True)
class WeightHook:
    """A hook of `weight_norm`, `spectral_norm` or `prune`.

    Attributes:
        hook: the hook.
        name: name of the tensor that it computes.
        keys: names of the parameters that it computes it from.
    """

    hook: Any
    name: str
    keys: tuple[str, ...]

    def stored(self, value: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the parameters for a value of the computed tensor."""
        if isinstance(self.hook, WeightNorm):
            length = torch.norm_except_dim(value, 2, self.hook.dim)
            return dict(zip(self.keys, (length, value), strict=True))
        return {self.keys[0]: value}


def weight_hooks(module: torch.nn.Module) -> Iterator[WeightHook]:
    """Yield the hooks of a layer that compute one of its tensors."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield WeightHook(hook, hook.name, (f"{hook.name}_g", f"{hook.name}_v"))
        elif isinstance(hook, SpectralNorm):
            yield WeightHook(hook, hook.name, (f"{hook.name}_orig",))
        elif isinstance(hook, prune.BasePruningMethod):
            name = hook._tensor_name
            yield WeightHook(hook, name, (f"{name}_orig",))


def refresh_spectral_norm(module: torch.nn.Module, changes: Any) -> list[str]:
    """Recompute the singular vectors of `torch.nn.utils.spectral_norm` for a new weight, and return their names.

    The layer runs one power iteration per forward pass in train mode, starting from random vectors. This function
    runs as many as `torch.nn.utils.parametrizations.spectral_norm` does when it is built.
    """
    names = []
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm) and not getattr(module, f"{hook.name}_orig").is_meta:
            for key in (f"{hook.name}_u", f"{hook.name}_v"):
                vector = getattr(module, key)
                changes.set(module._buffers, key, torch.full_like(vector, vector.numel() ** -0.5))
                names.append(key)
            for _ in range(_POWER_ITERATIONS):
                hook.compute_weight(module, do_power_iteration=True)
    return names
