"""The modules and tensors of a model under all their names: what `named_modules` and the like of torch give, without
their nested generators, which take a twentieth of all time where a model is looked at often.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

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
        children = module._modules
        if children:
            prefix = f"{path}." if path else ""
            stack += [(prefix + name, child) for name, child in reversed(children.items()) if child is not None]
    return found


def modules(model: nn.Module) -> list[nn.Module]:
    """Each module once, the outer first."""
    found: dict[int, nn.Module] = {}
    stack = [model]
    while stack:
        module = stack.pop()
        if id(module) not in found:
            found[id(module)] = module
            if module._modules:
                stack += [child for child in reversed(module._modules.values()) if child is not None]
    return list(found.values())


def each_once(named: Iterable[tuple[str, nn.Module]]) -> list[nn.Module]:
    """Each of these modules once, in their order."""
    return list({id(module): module for _, module in named}.values())


def set_mode(model: nn.Module, inside: Sequence[nn.Module], training: bool) -> None:
    """What `model.train(training)` does, given its modules: that takes longer, and is needed where one has its own."""
    if any(type(module).train is not nn.Module.train or "train" in module.__dict__ for module in inside):
        model.train(training)
    else:
        for module in inside:
            module.__dict__["training"] = training


def parameters(model: nn.Module) -> list[nn.Parameter]:
    """Each parameter once."""
    held = (value for module in modules(model) for value in module._parameters.values() if value is not None)
    return list({id(value): value for value in held}.values())


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Each parameter; one that is shared under all of its names."""
    return parameters_of(named_modules(model, every_name=True))


def named_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Each buffer; one that is shared under all of its names."""
    return buffers_of(named_modules(model, every_name=True))


def parameters_of(named: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of modules, named after these."""
    for path, module in named:
        for name, value in module._parameters.items():
            if value is not None:
                yield f"{path}.{name}" if path else name, value


def buffers_of(named: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, torch.Tensor]]:
    """The buffers of modules, named after these."""
    for path, module in named:
        for name, value in module._buffers.items():
            if value is not None:
                yield f"{path}.{name}" if path else name, value
