"""Every private torch API that the engine uses, and every one that has moved between versions."""

from __future__ import annotations

import logging
import random
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from pytest_headswap._devices import DEVICE_TYPES
from pytest_headswap.engine.pytorch import accelerators

__all__ = [
    "DeviceContext",
    "DispatchMode",
    "as_parameter",
    "disable_fused_kernels",
    "fake_tensor_mode",
    "gradient_leaves",
    "is_fake_tensor_limitation",
    "is_pointwise",
    "is_view",
    "map_tensors",
    "mutated_tensors",
    "op_name",
    "returns_argument",
    "returns_new_tensors",
    "seed_all",
    "selects_by_value",
    "silence_fake_tensor_log",
    "storage_key",
    "tensors_of_call",
    "tree_leaves",
    "tree_map_only",
    "without_vmap",
]


Mode = TypeVar("Mode", bound="DispatchMode")


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """A dispatch mode inside which compiled functions run uncompiled.

    By default, torch imports `torch._dynamo` for each dispatch mode, to keep `torch.compile` out of it. The import
    takes a second and 150 MB, and the check takes time in every operation.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __enter__(self: Mode) -> Mode:
        self._uncompiled = ExitStack()
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):  # torch 2.6 and later
            self._uncompiled.enter_context(torch.compiler.set_stance("force_eager"))
        super().__enter__()  # type: ignore[no-untyped-call, unused-ignore]
        return self

    def __exit__(self, *exception: object) -> None:
        with self._uncompiled:
            super().__exit__(*exception)  # type: ignore[no-untyped-call, unused-ignore]


def map_tensors(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return nested containers with `change` applied to each tensor.

    Containers that torch does not know as a pytree stay as they are.
    """
    return tree_map_only(torch.Tensor, change, tree)


def without_vmap(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor with the dimensions that `torch.vmap` hides from the code inside, in front of the others."""
    functorch: Any = getattr(torch._C, "_functorch", None)
    if functorch is None or not functorch.is_functorch_wrapped_tensor(tensor):
        return tensor
    dim = functorch.maybe_get_bdim(tensor)
    inner = without_vmap(functorch.get_unwrapped(tensor))
    return inner if dim < 0 else inner.movedim(dim + inner.dim() - tensor.dim() - 1, 0)


def gradient_leaves(tensors: Collection[torch.Tensor]) -> list[torch.Tensor]:
    """Return the leaves of the autograd graph: the tensors that a backward pass gives a gradient."""
    leaves = [tensor for tensor in tensors if tensor.requires_grad and tensor.grad_fn is None]
    seen: set[Any] = set()
    stack: list[Any] = [tensor.grad_fn for tensor in tensors]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # only nodes that accumulate gradients have this attribute
            leaves.append(node.variable)
        stack.extend(before for before, _ in node.next_functions)
    return leaves


def seed_all(value: int) -> None:
    """Seed the random number generators of Python, NumPy, torch, and of the devices whose runtime is up."""
    random.seed(value)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(value)
    torch.default_generator.manual_seed(value)
    accelerators.seed(value)


def fake_tensor_mode(*, real_kernels: bool = True) -> Any:
    """Return a context in which tensors have a shape, dtype and device but no memory.

    Its `from_tensor` converts a tensor. With `real_kernels`, operations without an abstract implementation run on
    zeros, which requires the device.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    _start_autograd_without_devices()
    return FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=real_kernels)


def _start_autograd_without_devices() -> None:
    """Initialise autograd before the first fake tensor on a machine without a GPU.

    There, fake tensors make torch report eight CUDA devices for the rest of the process. Autograd counts devices in
    its first backward pass: it would start a thread for each, and no forked process could run backward any more.
    """
    if accelerators.count("cuda") == 0:  # with a GPU, torch reports the real device count
        accelerators.prepare_autograd()
        with torch.inference_mode(False), torch.enable_grad():
            torch.ones((), device="cpu", requires_grad=True).backward()  # type: ignore[no-untyped-call]


def is_fake_tensor_limitation(error: BaseException) -> bool:
    """Return whether an error is a limitation of fake tensors and not a fault of the model.

    That is the case for code that needs values, for operations without an abstract implementation, for `Module.to` in
    forward, for calls to the driver of a missing device, and for packages that only machines with the device have. In
    torch 2.4, even a plain copy calls the driver.
    """
    from torch._subclasses import fake_tensor

    names = ("DataDependentOutputException", "DynamicOutputShapeException", "UnsupportedOperatorException")
    kinds = (ImportError, *(getattr(fake_tensor, name) for name in names if hasattr(fake_tensor, name)))
    return isinstance(error, kinds) or any(sign.search(str(error)) for sign in _NO_DEVICE_MESSAGES)


_NO_DEVICE_MESSAGES = tuple(
    re.compile(sign)
    for sign in (
        r"CUDA driver version is insufficient|Found no NVIDIA driver|Device does not support bfloat16",
        r"Cannot re-initialize CUDA in forked subprocess",
        r"not compiled with \w+ enabled|not linked with support for \w+ devices|Cannot execute \w+\(\) without",
        r"INTERNAL ASSERT FAILED at .*DispatchStub|Could not run 'aten::[\w.]+' with arguments from the '\w+' backend",
        rf"module 'torch' has no attribute '({'|'.join(DEVICE_TYPES)})'|backend has not registered a module",
        r"getNewGenerator|torch.Generator\(\)|Cannot get \w+ generator|egister (a generator|PrivateUse1HooksInterface)",
        r"device type not an accelerator|not supported for tensor subclasses|NYI: aten|Couldn't swap \w+\.",
    )
)


@contextmanager
def silence_fake_tensor_log() -> Iterator[None]:
    """Disable the log that fake tensors write for each failed operation. The caller reports failures."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def disable_fused_kernels() -> Iterator[None]:
    """Disable the fused kernels that hide the individual operations of attention and recurrent layers."""
    attention, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    torch._C._set_mkldnn_enabled(False)  # the public API also sets a flag that causes warnings
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(value=attention)
        torch._C._set_mkldnn_enabled(onednn)


def as_parameter(tensor: torch.Tensor, requires_grad: bool) -> torch.nn.Parameter:
    """Return a parameter that shares the memory of `tensor`. Faster than `nn.Parameter` for plain tensors."""
    if type(tensor) is not torch.Tensor:
        return torch.nn.Parameter(tensor, requires_grad)
    parameter: torch.nn.Parameter = torch.Tensor._make_subclass(torch.nn.Parameter, tensor, requires_grad)
    return parameter


@cache
def op_name(op: Any) -> str:
    """Return the name of an operation without its overload: `aten::addmm` for `torch.ops.aten.addmm.default`."""
    return str(op._schema.name)


@cache
def is_pointwise(op: Any) -> bool:
    """Return whether torch tags the operation as pointwise."""
    return torch.Tag.pointwise in op.tags


def selects_by_value(op: Any, args: tuple[Any, ...]) -> bool:
    """Return whether the output shape depends on the values of the arguments, as for `nonzero` or boolean masks."""
    if not _has_dynamic_shape(op):
        return False
    if op_name(op) != "aten::index":
        return True
    return any(isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])


@cache
def _has_dynamic_shape(op: Any) -> bool:
    return torch.Tag.dynamic_output_shape in op.tags


@cache
def returns_argument(op: Any) -> bool:
    """Return whether the schema says that the operation returns an argument that it wrote to."""
    return any(item.alias_info is not None for item in op._schema.returns)


@cache
def returns_new_tensors(op: Any) -> bool:
    """Return whether the operation returns only tensors that are new or that it wrote to, never a view."""
    kinds = {str(item.type) for item in op._schema.returns}
    return not op.is_view and kinds == {"Tensor"}


def is_view(op: Any) -> bool:
    """Return whether the result shares the memory of an argument and is computed without reading it."""
    return bool(op.is_view)


def tensors_of_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Return the tensors among the arguments of an operation, including those in lists."""
    values = (*args, *kwargs.values()) if kwargs else args
    items = (item for value in values for item in (value if isinstance(value, (list, tuple)) else (value,)))
    return [item for item in items if isinstance(item, torch.Tensor)]


@cache
def _mutated_arguments(op: Any) -> tuple[tuple[int, str], ...]:
    """Return the position and name of each argument that the operation writes to, according to its schema."""
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(op._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def mutated_tensors(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Return the arguments that the operation writes to, according to its schema (`add_`, `copy_`, `out=`)."""
    written: list[torch.Tensor] = []
    for position, name in _mutated_arguments(op):
        value = args[position] if position < len(args) else kwargs.get(name)
        values = value if isinstance(value, (list, tuple)) else [value]
        written.extend(item for item in values if isinstance(item, torch.Tensor))
    return written


def storage_key(tensor: torch.Tensor) -> int | None:
    """Return an identifier shared by all views of one storage. It is valid while one of them is alive."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # sparse tensors and others without a storage
        return None
