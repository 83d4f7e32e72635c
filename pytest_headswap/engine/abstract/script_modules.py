"""Stand-ins for the tensors of script modules, which keep their attributes outside of Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def is_script(module: nn.Module) -> bool:
    """Return whether a module was made by `torch.jit.script` or `torch.jit.trace`."""
    return isinstance(module, torch.jit.ScriptModule)


def separate_script_modules(module_list: Sequence[nn.Module]) -> tuple[Sequence[nn.Module], list[nn.Module]]:
    """Return the modules that keep their attributes in Python, and the script modules."""
    scripted = [module for module in module_list if is_script(module)]
    return [module for module in module_list if not is_script(module)] if scripted else module_list, scripted


@contextmanager
def substituted_in_script(
    module_list: Sequence[nn.Module], stand_in_for: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Give script modules stand-ins for the duration of the block, then restore their tensors and modes."""
    if not module_list:
        yield
        return
    modes = [module.training for module in module_list]
    states = [module.__dict__.copy() for module in module_list]
    originals: list[tuple[Any, str, torch.Tensor]] = [
        (module._c, name, tensor)
        for module in module_list
        for registry in (module._parameters, module._buffers)
        for name, tensor in registry.items()
        if tensor is not None
    ]
    try:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # do not specialise on stand-ins
            for attributes, name, tensor in originals:
                attributes.setattr(name, stand_in_for(tensor))
            yield
    finally:
        for attributes, name, tensor in originals:
            attributes.setattr(name, tensor)
        for module, training, state in zip(module_list, modes, states, strict=True):
            module.training = training
            module.__dict__.clear()
            module.__dict__.update(state)
