"""Call the `to` of a model as if there were another device, and see which tensors it moves."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pytest_headswap._devices import DEVICE_TYPES
from pytest_headswap.engine.abstract.reachable_code import (
    DEVICE_BRANCH,
    ReachableCode,
    cell_content,
    is_device_type,
    is_foreign,
    reachable_code,
)
from pytest_headswap.engine.abstract.simulated_device import only_available
from pytest_headswap.engine.abstract.stand_ins import PLAIN_TENSOR_TYPES, StandIns, substituted
from pytest_headswap.engine.pytorch.internals import storage_key
from pytest_headswap.engine.pytorch.modules import modules, named_buffers, named_parameters

_DEVICE_NAMES = frozenset(
    (
        *(DEVICE_BRANCH, "is_available", "is_built", "device_count", "current_accelerator", "get_device"),
        *(f"is_{kind}" for kind in ("cpu", *DEVICE_TYPES)),
    )
)

_COMPARABLE = frozenset((str, tuple, list))
_MOVERS = frozenset(("to", "cuda", "cpu", "_apply"))


def move_in_simulation(model: nn.Module, device: torch.device) -> tuple[list[torch.Tensor], list[str]]:
    """Call `model.to(device)` on meta tensors. The device need not exist, and the model is unchanged.

    Returns:
        The tensors that were moved, and the names of the parameters and buffers that were left behind.

    Raises:
        Exception: whatever `to` raises.
    """
    if all(_moves_as_torch_does(module) for module in modules(model)):
        return [tensor for _, tensor in (*named_parameters(model), *named_buffers(model))], []
    stand_ins = StandIns()
    with substituted(model, stand_ins):
        move = _Move(device, stand_ins.tensors())
        with only_available(device), move:
            model.to(device)
        registered = (*named_parameters(model), *named_buffers(model))
        left = [name for name, tensor in registered if storage_key(tensor) not in move.storages]
        return stand_ins.originals_of(move.moved), left


def _moves_as_torch_does(module: nn.Module) -> bool:
    """Return whether only torch's own code moves a module. That code moves every registered tensor."""
    tensors = (*module._parameters.values(), *module._buffers.values())
    kind: Any = type(module)  # mypy takes a class of modules for unhashable
    return (
        _has_methods_of_torch(kind)
        and _MOVERS.isdisjoint(module.__dict__)
        and all(tensor is None or type(tensor) in PLAIN_TENSOR_TYPES for tensor in tensors)
    )


@functools.cache
def _has_methods_of_torch(kind: type) -> bool:
    return all(getattr(kind, name).__module__.startswith("torch.nn.") for name in _MOVERS)


class _Move(TorchFunctionMode):
    """Take note of the tensors that are moved to a device, and give each stand-in new memory in its place."""

    def __init__(self, device: torch.device, stand_ins: tuple[torch.Tensor, ...]) -> None:
        super().__init__()
        self._device = device
        self._simulated = {id(tensor): tensor for tensor in stand_ins}
        self.moved: list[torch.Tensor] = []
        self.storages: set[int | None] = {None}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation of torch."""
        kwargs = kwargs or {}
        target: torch.device | None = None
        if func is torch.Tensor.to:
            target = self._target(args[1:], kwargs)
        elif func is torch.Tensor.cuda or func is torch.Tensor.cpu:
            target = self._device if func is torch.Tensor.cuda else torch.device("cpu")
        if target is None:
            return func(*args, **kwargs)
        tensor = args[0]
        if target == self._device:
            self.moved.append(tensor)
        if id(tensor) not in self._simulated:
            return tensor.detach()  # a tensor of the user: `_apply` would write the result into it
        result = torch.empty_like(tensor, requires_grad=False)
        self._simulated[id(result)] = result
        if target == self._device:
            self.storages.add(storage_key(result))
        return result

    def _target(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
        """Return the device among the arguments of `Tensor.to`, or None."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, (str, torch.device)):
                device = torch.device(value)
                return self._device if device == torch.device(self._device.type) else device
        return None


def code_names_devices(model: nn.Module) -> bool:
    """Return whether the code of a model tells devices apart, by `is_cuda` or by the type of a device."""
    module_list = modules(model)
    reach = reachable_code(frozenset(type(module) for module in module_list))
    if not _DEVICE_NAMES.isdisjoint(reach.names):
        return True
    return "device" in reach.names and any(map(is_device_type, _constants(module_list, reach)))


def _constants(module_list: Sequence[nn.Module], reach: ReachableCode) -> Iterator[Any]:
    """Yield the values that the code of a model can compare with a device."""
    for namespace, name in reach.variables.values():
        yield namespace.get(name)
    for cell in reach.cells:
        yield cell_content(cell)
    for kind in reach.classes:
        yield from vars(kind).values()
    for module in module_list:
        if not is_foreign(type(module)):
            yield from (value for value in module.__dict__.values() if type(value) in _COMPARABLE)
