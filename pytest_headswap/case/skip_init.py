"""Build a model without allocating its large parameters, while all other tensors get the values it gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from pytest_headswap.engine import MetaInitContext, NoHeadError, cached_meta_op
from pytest_headswap.engine.pytorch import (
    DispatchMode,
    is_view,
    map_tensors,
    mutated_tensors,
    op_name,
    parameters,
    returns_argument,
    tensors_of_call,
)

T = TypeVar("T")

MIN_SKIPPED_ELEMENTS = 2**14
"""Parameters with fewer elements get real values, so that norms and scales are right. They cost little."""

# operations that read only the shape and dtype of a tensor
_SHAPE_ONLY_OPS = frozenset(f"aten::{name}_like" for name in ("empty", "zeros", "ones", "full", "rand", "randn")) | {
    f"aten::new_{name}" for name in ("empty", "empty_strided", "zeros", "ones", "full")
}
_BATCH_NORMS = frozenset(f"aten::{name}" for name in ("native_batch_norm", "cudnn_batch_norm"))


def on_meta_if_possible(build: Callable[[], nn.Module], then: Callable[[nn.Module], T]) -> T:
    """Return `then(model)` for a model built on the meta device, or with memory if either step raises there.

    Some models compute with values in their initialisers or in forward. A model that ran in both modes on meta and
    has no head is not built again.
    """
    try:
        return _build_on_meta(build, then)
    except NoHeadError as error:
        if error.__cause__ is None:  # train mode ran too, so nothing was missed
            raise
    except Exception:  # noqa: BLE001 - the second attempt raises it again if it persists
        pass
    return then(build())


def _build_on_meta(build: Callable[[], nn.Module], then: Callable[[nn.Module], T]) -> T:
    with MetaInitContext():
        model = build()
    return then(model)


@dataclass(frozen=True)
class SkipInitModel:
    """A model whose large parameters have no values.

    Their memory is reserved but never written to, so it costs nothing. `uninitialized` maps a memory address to the
    tensor without values there. It keeps the tensors alive, so that the addresses are not reused. It is empty if the
    model had to be built in the ordinary way.
    """

    model: nn.Module
    uninitialized: Mapping[int, torch.Tensor] = field(default_factory=dict)

    def is_uninitialized(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor of the model has no values."""
        return _data_ptr(tensor) in self.uninitialized


def skip_init_if_possible(build: Callable[[], nn.Module]) -> SkipInitModel:
    """Build with large parameters left uninitialised. Build in the ordinary way if anything needs their values."""
    with suppress(Exception), _SkipInitMode() as mode, _skip_large_parameters(mode):
        skip_init = SkipInitModel(build(), mode.tensors)
        if not (
            mode.needs_values
            or any(skip_init.is_uninitialized(tensor) for tensor in _initialized_tensors(skip_init.model))
        ):
            return skip_init
    return SkipInitModel(build())


def _initialized_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the tensors that must keep the values the model gives them: all except large parameters."""
    yield from (parameter for parameter in parameters(model) if not _is_large(parameter))
    for module in model.modules():
        for value in (*module._buffers.values(), *module.__dict__.values()):
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(item, torch.Tensor):
                    yield item


class _SkipInitMode(DispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Skip the initialisers of large parameters. Tensors computed from them are uninitialised too.

    Such tensors have only a shape, so a model may run a part of itself while it is built, for example to count
    features.

    Raises:
        NotImplementedError, RuntimeError: an operation needs values; these are the errors of torch's meta tensors.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.tensors: dict[int, torch.Tensor] = {}
        self.needs_values = False

    def mark_uninitialized(self, tensor: torch.Tensor) -> None:
        """Leave the memory of a tensor uninitialised from now on."""
        self.tensors[_data_ptr(tensor)] = tensor.detach()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        uninitialized = [tensor for tensor in tensors_of_call(args, kwargs) if _data_ptr(tensor) in self.tensors]
        if not uninitialized:
            return func(*args, **kwargs)
        name = op_name(func)
        written = mutated_tensors(func, args, kwargs)
        if name in _BATCH_NORMS and args[5]:
            written = [tensor for tensor in args[3:5] if tensor is not None]  # its statistics; the schema hides them
        for tensor in written:
            self.mark_uninitialized(tensor)
        if name == "aten::any" and uninitialized[0].dtype is torch.bool:
            return torch.zeros((), dtype=torch.bool)  # initialisers search for values out of bounds: report none
        if is_view(func) or name in _SHAPE_ONLY_OPS:
            return func(*args, **kwargs)
        if written and returns_argument(func):
            return written[0]
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": "meta"}
        try:
            forms = cached_meta_op(func, map_tensors(args, _to_meta), map_tensors(kwargs, _to_meta))
        except Exception:
            self.needs_values = True  # record it: the model may catch this error and build itself differently
            raise
        return map_tensors(forms, self._make_uninitialized)

    def _make_uninitialized(self, form: torch.Tensor) -> torch.Tensor:
        tensor = torch.empty_strided(form.shape, form.stride(), dtype=form.dtype)
        self.mark_uninitialized(tensor)
        return tensor


@contextmanager
def _skip_large_parameters(mode: _SkipInitMode) -> Iterator[None]:
    """Leave each large parameter uninitialised when a module registers it, before its initialiser runs."""
    register = nn.Module.register_parameter

    def register_uninitialized(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if type(param) is nn.Parameter and _is_large(param):
            mode.mark_uninitialized(param)

    nn.Module.register_parameter = register_uninitialized  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _to_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _is_large(parameter: torch.Tensor) -> bool:
    large = parameter.numel() >= MIN_SKIPPED_ELEMENTS and parameter.dim() > 1
    return large and parameter.is_floating_point() and parameter.device.type == "cpu"


def _data_ptr(tensor: torch.Tensor) -> int:
    """Return the memory address of a tensor's storage, the same for all views; 0 if the tensor is not on the CPU."""
    return tensor.untyped_storage().data_ptr() if tensor.device.type == "cpu" else 0
