"""Build a model without memory for its large parameters, and with the values that it gives to all the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import nn

from pytest_headswap.engine._torch import TorchDispatchMode, mutated_tensors, op_name
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


def lean_if_possible(build: Callable[[], nn.Module]) -> nn.Module:
    """Build with large parameters that are one number, and again with memory for all if anything asks for their values.

    What such a parameter is to hold is for the caller to say; `is_lean` tells which ones they are.
    """
    with suppress(Exception), _Lean() as lean, _large_parameters_without_memory():
        model = build()
        if not lean.read:
            return model
    return build()


def is_lean(tensor: torch.Tensor) -> bool:
    """Whether all elements of a tensor are one and the same place in memory."""
    return tensor.numel() > 1 and not any(tensor.stride())


def _lean_like(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.zeros((), dtype=dtype or tensor.dtype, device=tensor.device).expand(tensor.shape)


class _Lean(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Initialisers do nothing to lean tensors, and copies of them are lean; `read` is what asks for values."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.read: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor) and is_lean(value)]
        if not given:
            return func(*args, **kwargs)
        written = mutated_tensors(func, args, kwargs)
        if any(tensor is value for tensor in written for value in given):
            return written[0]
        name = op_name(func)
        if name in _COPIES:
            return _lean_like(given[0], kwargs.get("dtype"))
        if name in _COMPARES:
            return _lean_like(given[0], torch.bool)
        if name == "aten::any" and given[0].dtype is torch.bool:
            return torch.zeros((), dtype=torch.bool)
        if not (func.is_view or name in _READ_NOTHING):
            self.read.append(name)
        return func(*args, **kwargs)


@contextmanager
def _large_parameters_without_memory() -> Iterator[None]:
    """Each large parameter loses its memory when a module registers it."""
    register = nn.Module.register_parameter

    def without_memory(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if type(param) is nn.Parameter and _is_large(param) and not param.is_meta and not is_lean(param):
            bare = nn.Parameter(_lean_like(param), param.requires_grad)
            bare.__dict__.update(param.__dict__)
            self._parameters[name] = bare

    nn.Module.register_parameter = without_memory  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _is_large(parameter: torch.Tensor) -> bool:
    return parameter.numel() >= LARGE and parameter.dim() > 1 and parameter.is_floating_point()
