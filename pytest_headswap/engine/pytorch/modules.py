"""List the modules and tensors of a model like `named_modules` and its relatives in torch, and look tensors up by name.

The nested generators of torch are slow: using them would make an abstract run over timm 5 % slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from pytest_headswap.engine.errors import HeadSwapError


def named_modules(model: nn.Module, *, include_aliases: bool = False) -> list[tuple[str, nn.Module]]:
    """Return each module with its path, outer modules first. With `include_aliases`, repeat shared modules."""
    named: list[tuple[str, nn.Module]] = []
    visited: set[int] = set()
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        path, module = stack.pop()
        if not include_aliases:
            if id(module) in visited:
                continue
            visited.add(id(module))
        named.append((path, module))
        children = module._modules
        if children:
            prefix = f"{path}." if path else ""
            stack += [(prefix + name, child) for name, child in reversed(children.items()) if child is not None]
    return named


def modules(model: nn.Module) -> list[nn.Module]:
    """Return each module once, outer modules first."""
    by_id: dict[int, nn.Module] = {}
    stack = [model]
    while stack:
        module = stack.pop()
        if id(module) not in by_id:
            by_id[id(module)] = module
            if module._modules:
                stack += [child for child in reversed(module._modules.values()) if child is not None]
    return list(by_id.values())


def unique_modules(named: Iterable[tuple[str, nn.Module]]) -> list[nn.Module]:
    """Return each of these modules once, in order."""
    return list({id(module): module for _, module in named}.values())


def parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return each parameter once."""
    registered = (value for module in modules(model) for value in module._parameters.values() if value is not None)
    return list({id(value): value for value in registered}.values())


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield each parameter with its name; shared ones under all their names."""
    return parameters_of(named_modules(model, include_aliases=True))


def named_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each buffer with its name; shared ones under all their names."""
    return buffers_of(named_modules(model, include_aliases=True))


def parameters_of(named: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of these modules with their full names."""
    for path, module in named:
        for name, value in module._parameters.items():
            if value is not None:
                yield f"{path}.{name}" if path else name, value


def buffers_of(named: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the buffers of these modules with their full names."""
    for path, module in named:
        for name, value in module._buffers.items():
            if value is not None:
                yield f"{path}.{name}" if path else name, value


def owner_path(name: str) -> str:
    """Return the path of the layer of a tensor: `fc` for `fc.weight` and `fc.parametrizations.weight.original0`."""
    layer, mark, _ = name.partition("parametrizations.")
    return layer.rstrip(".") if mark else name.rpartition(".")[0]


def owner_and_key(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that registers a tensor, and the tensor's name within it."""
    path, _, key = name.rpartition(".")
    return model.get_submodule(path), key


def is_registered(model: nn.Module, name: str) -> bool:
    """Return whether the model has a parameter or buffer with this name."""
    path, _, key = name.rpartition(".")
    try:
        owner = model.get_submodule(path)
    except AttributeError:
        return False
    return _registered(owner, key) is not None


def get_registered_tensor(model: nn.Module, name: str) -> torch.Tensor:
    """Return the parameter or buffer with this name. Raise HeadSwapError `unsupported_layer` if there is none."""
    owner, key = owner_and_key(model, name)
    tensor = _registered(owner, key)
    if tensor is None:
        raise HeadSwapError("unsupported_layer", f"{name} is not a registered parameter or buffer of the model")
    return tensor


def _registered(owner: nn.Module, key: str) -> torch.Tensor | None:
    registries = (registry for registry in (owner._parameters, owner._buffers) if key in registry)
    return next((registry[key] for registry in registries), None)  # the registries of script modules have no `get`


def freeze_all_but(model: nn.Module, trainable: Iterable[torch.Tensor]) -> None:
    """Set `requires_grad` of every parameter: True for these, False for all others."""
    trainable_ids = {id(tensor) for tensor in trainable}
    for parameter in parameters(model):
        parameter.requires_grad_(id(parameter) in trainable_ids)
