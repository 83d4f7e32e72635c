"""Stand-in tensors for a model, and a block in which the model holds them and is restored afterwards."""

from __future__ import annotations

import collections
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.internals import as_parameter, initialised_cuda_devices
from pytest_headswap.engine.pytorch.modules import modules

_PLAIN = frozenset((bool, int, float, str, type(None), torch.Size, torch.dtype, torch.device))
_CONTAINERS = (list, dict, set, collections.OrderedDict, collections.deque, collections.defaultdict)
# Registries of nn.Module are never shared between modules. Child modules are handled one by one.
REGISTRIES = frozenset(key for key, value in nn.Module().__dict__.items() if isinstance(value, (dict, set)))
_REGISTRY_TYPES = frozenset((dict, set, collections.OrderedDict))
_PLAIN_TENSORS = frozenset((torch.Tensor, nn.Parameter))

META, FAKE, REAL = "meta", "fake", "real"
WAYS = (META, FAKE, REAL)
"""The kinds of tensors a model can run on, the cheapest first.

`meta`: only shapes. `fake`: shapes with a device, and constants with values, for models that compute with them.
`real`: copies of all tensors and real arithmetic.
"""


class StandIns:
    """Create one stand-in for each tensor object of a model, so that shared tensors stay shared."""

    def __init__(self, way: str = META, fake: Any = None, device: torch.device | None = None) -> None:
        self._way = way
        self._fake = fake
        self._device = device or torch.device("cpu")
        self._made: dict[int, Any] = {}
        self._kept: list[Any] = []  # ids stay valid only while the originals live

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the stand-in of a parameter, buffer or plain tensor."""
        made = self._made.get(id(tensor))
        if made is None:
            kind = type(tensor)
            if kind not in _PLAIN_TENSORS and torch.nn.parameter.is_lazy(tensor):
                raise HeadSwapError(
                    "unsupported_model",
                    "the model has uninitialised lazy parameters: run it once on a real batch before the swap",
                )
            bare = self._bare(tensor)
            if kind is nn.Parameter or isinstance(tensor, nn.Parameter):
                made = as_parameter(bare, tensor.requires_grad)
            else:
                made = bare.requires_grad_() if tensor.requires_grad and tensor.is_leaf else bare
            self._remember(tensor, made)
        stand_in: torch.Tensor = made
        return stand_in

    def _bare(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._way == META and tensor.is_meta and type(tensor) in _PLAIN_TENSORS:
            return tensor.data  # no values that a write could change
        if self._way == META and tensor.layout is torch.strided and not tensor.is_quantized:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        if self._way == META:
            return torch.empty_like(tensor, device="meta", requires_grad=False)
        if self._way == FAKE and tensor.is_meta:  # The model is on meta: create a fake tensor directly.
            with self._fake:
                return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self._device)
        if self._way == FAKE:
            made: torch.Tensor = self._fake.from_tensor(tensor.detach())
            return made
        return tensor.detach().clone()

    def copy(self, value: Any) -> Any:
        """Return a copy of an attribute: tensors become stand-ins, built-in containers are copied, the rest is kept."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if isinstance(value, torch.Tensor):
            return self.of(value)
        if kind is tuple:
            items = tuple(self.copy(item) for item in value)
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        if kind not in _CONTAINERS:
            return value
        made = self._made.get(id(value))
        if made is None:
            made = value.copy()
            self._remember(value, made)  # before its items: containers may hold themselves
            if isinstance(made, dict):
                for key, item in made.items():
                    made[key] = self.copy(item)
            elif not isinstance(made, set):
                for index, item in enumerate(made):
                    made[index] = self.copy(item)
        return made

    def registry(self, registry: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
        """Return a copy of the parameters or buffers of one module, with stand-ins."""
        made = registry.copy()
        for key, value in registry.items():
            if value is not None:
                made[key] = self.of(value)
        return made

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return all stand-ins created so far."""
        return tuple(made for made in self._made.values() if isinstance(made, torch.Tensor))

    def _remember(self, original: Any, made: Any) -> None:
        self._made[id(original)] = made
        self._kept.append(original)


class _OnDevice(StandIns):
    """Meta tensors for the tensors on the device, and copies of the CPU tensors."""

    def __init__(self, on_device: list[torch.Tensor]) -> None:
        super().__init__()
        self._on_device = {id(tensor) for tensor in on_device}

    def _bare(self, tensor: torch.Tensor) -> torch.Tensor:
        return super()._bare(tensor) if id(tensor) in self._on_device else tensor.detach().clone()


@contextmanager
def preserved(model: nn.Module, stand_ins: StandIns, inside: Sequence[nn.Module] | None = None) -> Iterator[StandIns]:
    """Give every module of `model` stand-ins for the duration of the block, then restore its state.

    `inside` are the modules of the model; pass them if you already have them. RNG states of Python, NumPy and torch,
    the default dtype and the grad mode are restored too.
    """
    inside = modules(model) if inside is None else inside
    originals = [module.__dict__.copy() for module in inside]
    unfilled: list[Any] = []  # Each module has ten registries; copying empty ones would be slow.
    with preserved_globals():
        try:
            for module, state in zip(inside, originals, strict=True):
                current = module.__dict__
                for key, value in state.items():
                    kind = type(value)
                    if kind in _PLAIN or (kind is tuple and _PLAIN.issuperset(map(type, value))):
                        continue
                    if not (kind in _REGISTRY_TYPES and key in REGISTRIES):
                        current[key] = stand_ins.copy(value)
                    elif not value:
                        unfilled.append(value)
                    elif key == "_parameters" or key == "_buffers":
                        current[key] = stand_ins.registry(value)
                    else:
                        current[key] = value.copy()
            yield stand_ins
        finally:
            for module, state in zip(inside, originals, strict=True):
                module.__dict__.clear()
                module.__dict__.update(state)
            for registry in unfilled:
                if registry:
                    registry.clear()


@contextmanager
def preserved_globals() -> Iterator[None]:
    """Restore the RNG states of Python, NumPy and torch, the default dtype and the grad mode after the block."""
    python_state = random.getstate()
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        with torch.random.fork_rng(initialised_cuda_devices()):
            yield
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
