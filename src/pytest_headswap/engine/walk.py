"""The modules and tensors of a model under all their names: what `named_modules` and the like of torch give, without
their nested generators, which take a twentieth of all time where a model is looked at often.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn


def named_modules(model: nn.Module, *, every_name: bool = False) -> list[tuple[str, nn.Module]]:
    """Each module with its path, the outer first. One that is shared has its first path, or all with `every_name`."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        path, module = stack.pop()
        if not every_name:
            if id(module) in seen:
                continue
            seen.add(id(module))
        found.append((path, module))
        prefix = f"{path}." if path else ""
        children = [(prefix + name, child) for name, child in module._modules.items() if child is not None]
        stack.extend(reversed(children))
    return found


def modules(model: nn.Module) -> list[nn.Module]:
    """Each module once, the outer first."""
    found: dict[int, nn.Module] = {}
    stack = [model]
    while stack:
        module = stack.pop()
        if id(module) not in found:
            found[id(module)] = module
            stack.extend(reversed([child for child in module._modules.values() if child is not None]))
    return list(found.values())


def parameters(model: nn.Module) -> list[nn.Parameter]:
    """Each parameter once."""
    held = (value for module in modules(model) for value in module._parameters.values() if value is not None)
    return list({id(value): value for value in held}.values())


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Each parameter; one that is shared under all of its names."""
    for path, module in named_modules(model, every_name=True):
        for name, value in module._parameters.items():
            if value is not None:
                yield f"{path}.{name}" if path else name, value


def named_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Each buffer; one that is shared under all of its names."""
    for path, module in named_modules(model, every_name=True):
        for name, value in module._buffers.items():
            if value is not None:
                yield f"{path}.{name}" if path else name, value
