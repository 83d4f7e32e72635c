"""Stand-in tensors for a model, and a block in which the model holds them and is restored afterwards."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.script_modules import separate_script_modules, substituted_in_script
from pytest_headswap.engine.abstract.surroundings import Surroundings
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.internals import as_parameter
from pytest_headswap.engine.pytorch.modules import modules
from pytest_headswap.engine.pytorch.saved_state import RandomState

_PLAIN_TYPES = frozenset((bool, int, float, str, type(None), torch.Size, torch.dtype, torch.device))
_CONTAINER_TYPES = (list, dict, set, collections.OrderedDict, collections.deque, collections.defaultdict)
# Registries of nn.Module are never shared between modules. Child modules are handled one by one.
REGISTRIES = frozenset(key for key, value in nn.Module().__dict__.items() if isinstance(value, (dict, set)))
_HOOKS = frozenset(key for key in REGISTRIES if key.endswith("_hooks"))
_REGISTRY_TYPES = frozenset((dict, set, collections.OrderedDict))
PLAIN_TENSOR_TYPES = frozenset((torch.Tensor, nn.Parameter))

META, FAKE, REAL = "meta", "fake", "real"
TENSOR_KINDS = (META, FAKE, REAL)
"""The kinds of tensors a model can run on, the cheapest first.

`meta`: only shapes. `fake`: shapes with a device, and constants with values, for models that compute with them.
`real`: copies of all tensors and real arithmetic.
"""


class StandIns:
    """Create one stand-in for each tensor object of a model, so that shared tensors stay shared."""

    def __init__(self, tensor_kind: str = META, fake: Any = None, device: torch.device | None = None) -> None:
        self._tensor_kind = tensor_kind
        self._fake = fake
        self._device = device or torch.device("cpu")
        self._stand_ins: dict[int, Any] = {}
        self._originals: list[Any] = []  # ids stay valid only while the originals live

    def stand_in_for(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the stand-in of a parameter, buffer or plain tensor."""
        stand_in: torch.Tensor | None = self._stand_ins.get(id(tensor))
        if stand_in is None:
            kind = type(tensor)
            if kind not in PLAIN_TENSOR_TYPES and torch.nn.parameter.is_lazy(tensor):
                raise HeadSwapError(
                    "unsupported_model",
                    "the model has uninitialised lazy parameters: run it once on a real batch before the swap",
                )
            bare = self._make(tensor)
            if kind is nn.Parameter or isinstance(tensor, nn.Parameter):
                stand_in = as_parameter(bare, tensor.requires_grad)
            else:
                stand_in = bare.requires_grad_() if tensor.requires_grad and tensor.is_leaf else bare
            self._remember(tensor, stand_in)
        return stand_in

    def _make(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._tensor_kind == META and tensor.is_meta and type(tensor) in PLAIN_TENSOR_TYPES:
            return tensor.data  # no values that a write could change
        if self._tensor_kind == META and tensor.layout is torch.strided and not tensor.is_quantized:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        if self._tensor_kind == META:
            return torch.empty_like(tensor, device="meta", requires_grad=False)
        if self._tensor_kind == FAKE and tensor.is_meta:  # The model is on meta: create a fake tensor directly.
            with self._fake:
                return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self._device)
        if self._tensor_kind == FAKE:
            fake_tensor: torch.Tensor = self._fake.from_tensor(tensor.detach())
            return fake_tensor
        if tensor.is_meta:  # an input whose values do not matter
            return torch.zeros(tensor.shape, dtype=tensor.dtype, device=self._device)
        return tensor.detach().clone()

    def copy(self, value: Any) -> Any:
        """Return a copy of an attribute: tensors become stand-ins, built-in containers are copied, the rest is kept."""
        kind = type(value)
        if kind in _PLAIN_TYPES:
            return value
        if isinstance(value, torch.Tensor):
            return self.stand_in_for(value)
        if kind is tuple:
            items = tuple(self.copy(item) for item in value)
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        if kind not in _CONTAINER_TYPES:
            return value
        copied = self._stand_ins.get(id(value))
        if copied is None:
            copied = value.copy()
            self._remember(value, copied)  # before its items: containers may hold themselves
            if isinstance(copied, dict):
                for key, item in copied.items():
                    copied[key] = self.copy(item)
            elif not isinstance(copied, set):
                for index, item in enumerate(copied):
                    copied[index] = self.copy(item)
        return copied

    def copy_registry(self, registry: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
        """Return a copy of the parameters or buffers of one module, with stand-ins."""
        copied = registry.copy()
        for key, value in registry.items():
            if value is not None:
                copied[key] = self.stand_in_for(value)
        return copied

    def existing(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Return the stand-in of a tensor, or None if the tensor has none."""
        stand_in: torch.Tensor | None = self._stand_ins.get(id(tensor))
        return stand_in

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return all stand-ins created so far."""
        return tuple(item for item in self._stand_ins.values() if isinstance(item, torch.Tensor))

    def originals_of(self, tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """Return the tensors whose stand-ins these are, and those that are no stand-ins as they are."""
        originals = {id(self._stand_ins[id(original)]): original for original in self._originals}
        return [originals.get(id(tensor), tensor) for tensor in tensors]

    def _remember(self, original: Any, stand_in: Any) -> None:
        self._stand_ins[id(original)] = stand_in
        self._originals.append(original)


class DeviceStandIns(StandIns):
    """Meta tensors for the tensors on the device, and copies of the CPU tensors."""

    def __init__(self, on_device: list[torch.Tensor]) -> None:
        super().__init__()
        self._on_device = {id(tensor) for tensor in on_device}

    def _make(self, tensor: torch.Tensor) -> torch.Tensor:
        return super()._make(tensor) if id(tensor) in self._on_device else tensor.detach().clone()


@contextmanager
def substituted(
    model: nn.Module, stand_ins: StandIns, module_list: Sequence[nn.Module] | None = None
) -> Iterator[StandIns]:
    """Give every module of `model` stand-ins for the duration of the block, then restore its state.

    The block also restores the RNG states of Python, NumPy and torch, the default dtype and the grad mode. Pass the
    modules of the model as `module_list` if you already have them.
    """
    module_list, scripted = separate_script_modules(modules(model) if module_list is None else module_list)
    originals = [module.__dict__.copy() for module in module_list]
    others: list[Any] = []
    surroundings: Surroundings | None = None
    empty_registries: list[Any] = []  # Each module has ten registries; copying empty ones would be slow.
    with preserve_global_state(), substituted_in_script(scripted, stand_ins.stand_in_for):
        try:
            for module, state in zip(module_list, originals, strict=True):
                current = module.__dict__
                for key, value in state.items():
                    kind = type(value)
                    if kind in _PLAIN_TYPES or (kind is tuple and _PLAIN_TYPES.issuperset(map(type, value))):
                        continue
                    if not (kind in _REGISTRY_TYPES and key in REGISTRIES):
                        current[key] = stand_ins.copy(value)
                        others.append(value)
                    elif not value:
                        empty_registries.append(value)
                    elif key == "_parameters" or key == "_buffers":
                        current[key] = stand_ins.copy_registry(value)
                    else:
                        current[key] = value.copy()
                        if key in _HOOKS:
                            others.append(value)
            surroundings = Surroundings(module_list, others)
            surroundings.substitute(stand_ins.existing)
            yield stand_ins
        finally:
            if surroundings is not None:
                surroundings.restore()
            for module, state in zip(module_list, originals, strict=True):
                module.__dict__.clear()
                module.__dict__.update(state)
            for registry in empty_registries:
                if registry:
                    registry.clear()


def surroundings_of(module_list: Sequence[nn.Module]) -> Surroundings:
    """Return the objects that modules hold or reach, with their present state."""
    values = [
        value
        for module in module_list
        for key, value in module.__dict__.items()
        if type(value) not in _PLAIN_TYPES and (key not in REGISTRIES or (value and key in _HOOKS))
    ]
    return Surroundings(module_list, values)


@contextmanager
def preserve_global_state() -> Iterator[None]:
    """Restore the RNG states of Python, NumPy and torch, the default dtype and the grad mode after the block."""
    random_state = RandomState()
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        random_state.restore()
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
