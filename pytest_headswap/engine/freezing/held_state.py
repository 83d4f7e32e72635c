"""List the tensors and random number generators that the modules of a model hold, and see which a run changes."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from pytest_headswap.engine.abstract.reachable_code import PLAIN, is_code, is_foreign
from pytest_headswap.engine.abstract.stand_ins import REGISTRIES
from pytest_headswap.engine.pytorch.internals import storage_key

_DEPTH, _MAX_ITEMS = 3, 256  # of nested containers and objects that are searched


class HeldTensor(NamedTuple):
    """A tensor that a module holds.

    Attributes:
        attribute: name of the parameter, buffer or attribute that leads to it.
        is_registered: whether it is a parameter or buffer.
        tensor: the tensor.
        storage: key of its storage.
    """

    attribute: str
    is_registered: bool
    tensor: torch.Tensor
    storage: int | None


class HeldState:
    """The tensors and generators that modules hold at the time of creation.

    Attributes:
        tensors: the tensors by path, such as `memory['queue'][0]`.
        generators: the generators of Python and NumPy by name, including the global ones.
    """

    def __init__(self, named: Sequence[tuple[str, nn.Module]]) -> None:
        self.tensors: dict[str, HeldTensor] = {}
        self.generators: dict[str, _Generator] = {"Python's random": _Generator(random)}
        if "numpy" in sys.modules:
            self.generators["numpy.random"] = _Generator(sys.modules["numpy"].random)
        self._seen: set[int] = set()
        self._kinds = _generator_types()
        python_modules: set[str] = set()
        for path, module in named:
            if id(module) not in self._seen:
                self._seen.add(id(module))
                self._add_module(f"{path}." if path else "", module)
                if not is_foreign(type(module)):
                    python_modules.add(type(module).__module__)
        for name in python_modules & sys.modules.keys():
            for key, value in vars(sys.modules[name]).items():
                if type(value) in self._kinds:
                    self.generators[f"{name}.{key}"] = _Generator(value)

    def changed_tensors(self, now: HeldState) -> list[tuple[str, HeldTensor]]:
        """Return the paths that hold another tensor now, or memory that they did not have, and the new tensors.

        What appears in an attribute that held no tensor before is left out, because forward cannot have read it.
        """
        attributes = {held.attribute for held in self.tensors.values()}
        return [
            (path, held)
            for path, held in now.tensors.items()
            if (held.is_registered or held.attribute in attributes)
            and (
                path not in self.tensors
                or held.tensor is not self.tensors[path].tensor
                or held.storage != self.tensors[path].storage
            )
        ]

    def used_generators(self) -> list[str]:
        """Return the names of the generators whose state has changed."""
        return [name for name, generator in self.generators.items() if generator.is_used()]

    def restore_generators(self) -> None:
        """Give every generator its recorded state."""
        for generator in self.generators.values():
            generator.restore()

    def _add_module(self, prefix: str, module: nn.Module) -> None:
        state = module.__dict__
        for registry in (module._parameters, module._buffers):  # a script module has them outside of its `__dict__`
            for key, tensor in registry.items():
                if tensor is not None:
                    self._add_tensor(prefix + key, prefix + key, True, tensor)
        # first in one comprehension, because most attributes are left out
        for key, value in [item for item in state.items() if item[0] not in REGISTRIES and type(item[1]) not in PLAIN]:
            if type(value) is not tuple or not PLAIN.issuperset(map(type, value)):
                self._add(prefix + key, prefix + key, value, _DEPTH)

    def _add_tensor(self, attribute: str, path: str, is_registered: bool, tensor: torch.Tensor) -> None:
        self.tensors[path] = HeldTensor(attribute, is_registered, tensor, storage_key(tensor))

    def _add(self, attribute: str, path: str, value: Any, depth: int) -> None:
        kind = type(value)
        if isinstance(value, torch.Tensor):
            self._add_tensor(attribute, path, False, value)
        elif kind in self._kinds:
            self.generators[path] = _Generator(value)
        elif depth and id(value) not in self._seen and not isinstance(value, nn.Module) and not is_code(value):
            self._seen.add(id(value))
            for step, item in _items(value):
                if type(item) not in PLAIN:
                    self._add(attribute, path + step, item, depth - 1)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list, tuple, deque)):
        if len(value) <= _MAX_ITEMS:
            items: Iterable[tuple[Any, Any]] = dict.items(value) if isinstance(value, dict) else enumerate(value)
            yield from [(f"[{key!r}]", item) for key, item in items]
    elif not is_foreign(type(value)):
        state = getattr(value, "__dict__", None)
        if type(state) is dict:
            yield from [(f".{key}", item) for key, item in state.items()]


class _Generator:
    """A random number generator of Python or NumPy, and its state at the time of creation."""

    def __init__(self, generator: Any) -> None:
        self._read, self._write, self._draw = _methods(generator)
        self._state = self._read()

    def is_used(self) -> bool:
        return bool(_plain(self._read()) != _plain(self._state))

    def restore(self) -> None:
        self._write(self._state)

    def advance(self) -> None:
        """Draw a number, so that the next ones are others."""
        self._draw()

    def state(self) -> Any:
        """Return the present state in a form that can be compared."""
        return _plain(self._read())


def _methods(generator: Any) -> tuple[Callable[[], Any], Callable[[Any], Any], Callable[[], Any]]:
    """Return functions that read the state, write it, and draw a number."""
    if hasattr(generator, "getstate"):
        return generator.getstate, generator.setstate, generator.random
    if hasattr(generator, "get_state"):
        return generator.get_state, generator.set_state, generator.random_sample
    bits = generator.bit_generator
    return lambda: bits.state, lambda state: setattr(bits, "state", state), generator.random


def _plain(state: Any) -> Any:
    """Return a state with arrays replaced by bytes."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, tuple) and len(state) < _MAX_ITEMS:
        return tuple(_plain(value) for value in state)
    return state.tobytes() if hasattr(state, "tobytes") else state


def _generator_types() -> tuple[type, ...]:
    numpy = sys.modules.get("numpy")
    return (random.Random, *((numpy.random.Generator, numpy.random.RandomState) if numpy is not None else ()))
