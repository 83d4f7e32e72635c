"""Build a model without memory for its large parameters, and with the values that it gives to all the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from pytest_headswap.engine._torch import TorchDispatchMode, is_view, mutated_tensors, op_name, tensors_of_call
from pytest_headswap.engine.meta import MetaMode

T = TypeVar("T")

LARGE = 2**14
"""Parameters with fewer elements are real: norms and scales are then as the model wants them, and cost little."""

# what asks a tensor for its shape and dtype alone
_READ_NOTHING = frozenset(f"aten::{name}_like" for name in ("empty", "zeros", "ones", "full", "rand", "randn")) | {
    f"aten::new_{name}" for name in ("empty", "empty_strided", "zeros", "ones", "full")
}
_COPIES = frozenset(("aten::clone", "aten::_to_copy"))
# initialisers look for values out of bounds, and there are none
_COMPARES = frozenset(f"aten::{name}" for name in ("lt", "gt", "le", "ge", "bitwise_or", "logical_or"))


def on_meta_if_possible(build: Callable[[], T]) -> T:
    """Build on meta, and again with memory if that raises: some models compute with values in their initialisers."""
    with suppress(Exception), torch.device("meta"), MetaMode():  # type: ignore[no-untyped-call, unused-ignore]
        return build()  # what remains of an exception is raised by the second attempt
    return build()


@dataclass(frozen=True)
class Lean:
    """A model whose large parameters have no values: their memory was asked for and never written to, so it costs none.

    `unwritten` are tensors without values, by where they lie. They are kept, so that nothing else comes to lie
    there. None when the model had to be built in the ordinary way.
    """

    model: nn.Module
    unwritten: Mapping[int, torch.Tensor] = field(default_factory=dict)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor of the model has no values."""
        return _place(tensor) in self.unwritten


def lean_if_possible(build: Callable[[], nn.Module]) -> Lean:
    """Build with large parameters left unwritten, and again in the ordinary way if anything asks for their values."""
    with suppress(Exception), _Unwritten() as mode, _noting_large_parameters(mode):
        model = build()
        if not mode.read:
            return Lean(model, mode.tensors)
    return Lean(build())


class _Unwritten(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Initialisers do nothing to large parameters, and copies of them are unwritten too; `read` asks for values."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.tensors: dict[int, torch.Tensor] = {}
        self.read: list[str] = []

    def leave(self, tensor: torch.Tensor) -> None:
        """Leave the memory of a tensor unwritten from now on."""
        self.tensors[_place(tensor)] = tensor.detach()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [tensor for tensor in tensors_of_call(args, kwargs) if _place(tensor) in self.tensors]
        if not given:
            return func(*args, **kwargs)
        written = mutated_tensors(func, args, kwargs)
        if any(tensor is value for tensor in written for value in given):
            return written[0]
        name = op_name(func)
        if name in _COPIES or name in _COMPARES:
            return self._like(given[0], torch.bool if name in _COMPARES else kwargs.get("dtype"))
        if name == "aten::any" and given[0].dtype is torch.bool:
            return torch.zeros((), dtype=torch.bool)
        if not (is_view(func) or name in _READ_NOTHING):
            self.read.append(name)
        return func(*args, **kwargs)

    def _like(self, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        made = torch.empty_like(tensor, dtype=dtype or tensor.dtype)
        self.leave(made)
        return made


@contextmanager
def _noting_large_parameters(mode: _Unwritten) -> Iterator[None]:
    """Leave each large parameter unwritten from when a module registers it: at that time it is not initialised yet."""
    register = nn.Module.register_parameter

    def noting(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if type(param) is nn.Parameter and _is_large(param):
            mode.leave(param)

    nn.Module.register_parameter = noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _is_large(parameter: torch.Tensor) -> bool:
    large = parameter.numel() >= LARGE and parameter.dim() > 1
    return large and parameter.is_floating_point() and parameter.device.type == "cpu"


def _place(tensor: torch.Tensor) -> int:
    """Where a tensor lies in memory, alike for all views; 0 for one that lies in none."""
    return tensor.untyped_storage().data_ptr() if tensor.device.type == "cpu" else 0
