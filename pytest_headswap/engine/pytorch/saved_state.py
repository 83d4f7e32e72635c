"""Save state that a block may change, and restore it: random number generators, and the modes of a model."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.pytorch import accelerators
from pytest_headswap.engine.pytorch.modules import modules


class RandomState:
    """The states of the random number generators of Python, NumPy and torch at the time of creation."""

    def __init__(self) -> None:
        self._python = random.getstate()
        numpy = sys.modules.get("numpy")
        self._numpy = numpy.random.get_state() if numpy is not None else None
        self._cpu = torch.get_rng_state()
        self._devices = accelerators.random_states()

    def restore(self) -> None:
        """Restore all generators."""
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)
        torch.set_rng_state(self._cpu)
        for device, state in self._devices.items():
            accelerators.set_random_state(device, state)


OVERRIDDEN_METHODS = ("train", "reset_running_stats")
"""Methods that a freeze gives to modules."""


class MethodOverride:
    """A method that a freeze gives to one module. Copies and pickles of the module keep it."""

    __slots__ = ("module",)

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.module,)

    def __deepcopy__(self, memo: dict[int, Any]) -> MethodOverride:
        function, arguments = self.__reduce__()
        return function(*copy.deepcopy(arguments, memo))  # type: ignore[no-any-return]


def remove_overrides(owners: Iterable[nn.Module]) -> None:
    """Remove the methods that a freeze gave to these modules."""
    for module in owners:
        for name in OVERRIDDEN_METHODS:
            if isinstance(module.__dict__.get(name), MethodOverride):
                del module.__dict__[name]


class ModuleState:
    """The modes, overridden methods and `requires_grad` flags of a model at the time of creation."""

    def __init__(self, model: nn.Module) -> None:
        self._modes: list[tuple[nn.Module, bool, dict[str, Any]]] = [
            (module, module.training, {n: module.__dict__[n] for n in OVERRIDDEN_METHODS if n in module.__dict__})
            for module in modules(model)
        ]
        self._flags = [
            (module, name, parameter, parameter.requires_grad)
            for module, _, _ in self._modes
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]

    def restore(self) -> None:
        """Restore the recorded modules and parameters."""
        for module, training, methods in self._modes:
            if module.training is not training:  # because `__setattr__` of a module is slow
                module.training = training
            for name in OVERRIDDEN_METHODS:
                if name not in methods:
                    module.__dict__.pop(name, None)
            module.__dict__.update(methods)
        for module, name, parameter, flag in self._flags:
            parameter.requires_grad_(flag)
            present = dict(module._parameters.items()).get(name)  # those of script modules have no `get`
            if present is not parameter and present is not None and _is_moved(present, parameter):
                present.requires_grad_(flag)


def _is_moved(present: nn.Parameter, recorded: nn.Parameter) -> bool:
    """Return whether a parameter may have taken the place of another when the model was moved, as on XLA."""
    moved = (present.device, present.dtype) != (recorded.device, recorded.dtype)
    return moved and present.shape == recorded.shape
