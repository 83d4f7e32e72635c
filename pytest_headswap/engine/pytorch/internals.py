"""Everything the engine uses of torch that is private or has moved between versions, in one place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "DeviceContext",
    "TorchDispatchMode",
    "as_parameter",
    "cannot_be_simulated",
    "fake_tensor_mode",
    "gives_fresh_tensors",
    "gradient_leaves",
    "initialised_cuda_devices",
    "is_pointwise",
    "is_view",
    "mutated_tensors",
    "op_name",
    "out_of_device_memory",
    "plain_kernels",
    "quiet_fake_tensors",
    "refresh_spectral_norm",
    "returns_an_argument",
    "seed",
    "selects_by_value",
    "storage_key",
    "tensors_of_call",
    "wait_for",
]


def gradient_leaves(tensors: Collection[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors at the ends of the autograd graph: what a backward pass from `tensors` would give a gradient."""
    leaves = [tensor for tensor in tensors if tensor.requires_grad and tensor.grad_fn is None]
    seen: set[Any] = set()
    stack: list[Any] = [tensor.grad_fn for tensor in tensors]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # only the nodes that accumulate gradients have it
            leaves.append(node.variable)
        stack.extend(before for before, _ in node.next_functions)
    return leaves


def initialised_cuda_devices() -> list[int]:
    """The CUDA devices of this process; none when CUDA has not been used, so that asking does not start it."""
    is_initialised: Callable[[], bool] = torch.cuda.is_initialized
    return list(range(torch.cuda.device_count())) if is_initialised() else []


def wait_for(device: torch.device) -> None:
    """Wait for what was started on the device, so that what goes wrong there is raised here and not later."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def out_of_device_memory(error: BaseException) -> bool:
    """Whether memory of a device was missing: for tensors, or for what its libraries take beside them."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(sign in str(error) for sign in _NO_MEMORY)


_NO_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def seed(value: int) -> None:
    """What `torch.manual_seed` does, without its notes for devices that have not been used.

    It keeps one for each call and device, with a stack trace, until the device is.
    """
    torch.default_generator.manual_seed(value)
    if initialised_cuda_devices():
        torch.cuda.manual_seed_all(value)


def fake_tensor_mode(*, real_kernels: bool = True) -> Any:
    """A context in which tensors have shape, dtype and device but no memory; `from_tensor` brings a tensor into it.

    `real_kernels`: operations that have no abstract form are run on zeros, which needs the device.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    _start_autograd_without_devices()
    return FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=real_kernels)


def _start_autograd_without_devices() -> None:
    """Let autograd see a machine without a GPU as it is.

    On one, fake tensors stand in for CUDA with eight devices, for as long as the process lives. Autograd counts devices
    at its first backward: it would start a thread for each of them, and none of its forks could run backward any more.
    """
    if torch.cuda.device_count() == 0:  # where there is one, fake tensors stand in for nothing
        with torch.inference_mode(False), torch.enable_grad():
            torch.ones((), device="cpu", requires_grad=True).backward()  # type: ignore[no-untyped-call]


def cannot_be_simulated(error: BaseException) -> bool:
    """Whether fake tensors raised this because they are none: asked for values, for an operation that has no abstract
    form, or (in torch 2.4, also where a copy is all that is made) for the driver of a device that is not there.
    """
    from torch._subclasses import fake_tensor

    names = ("DataDependentOutputException", "DynamicOutputShapeException", "UnsupportedOperatorException")
    kinds = tuple(getattr(fake_tensor, name) for name in names if hasattr(fake_tensor, name))
    return isinstance(error, kinds) or any(sign in str(error) for sign in _NO_DRIVER)


_NO_DRIVER = ("CUDA driver version is insufficient", "Found no NVIDIA driver", "not compiled with CUDA enabled")


@contextmanager
def quiet_fake_tensors() -> Iterator[None]:
    """Without the log that fake tensors write of each operation that fails: the caller reports what it means."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Without the fused kernels that hide the steps of attention and recurrent layers."""
    attention, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    torch._C._set_mkldnn_enabled(False)  # its public form also sets a flag that warns
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(value=attention)
        torch._C._set_mkldnn_enabled(onednn)


def as_parameter(tensor: torch.Tensor, requires_grad: bool) -> torch.nn.Parameter:
    """A parameter with the memory of `tensor`: what `nn.Parameter` makes of a plain one, without its questions."""
    if type(tensor) is not torch.Tensor:
        return torch.nn.Parameter(tensor, requires_grad)
    made: torch.nn.Parameter = torch.Tensor._make_subclass(torch.nn.Parameter, tensor, requires_grad)
    return made


@cache
def op_name(op: Any) -> str:
    """`aten::addmm` for `torch.ops.aten.addmm.default`: the operation without its overload."""
    return str(op._schema.name)


@cache
def is_pointwise(op: Any) -> bool:
    """Whether torch itself marks the operation as acting on each element alone."""
    return torch.Tag.pointwise in op.tags


def refresh_spectral_norm(module: torch.nn.Module, changes: Any) -> list[str]:
    """Bring the singular vectors of `torch.nn.utils.spectral_norm` in line with a new weight; return their names.

    The layer does one step of the power iteration in each forward pass in train mode, and starts from noise. Here it
    takes as many as `torch.nn.utils.parametrizations.spectral_norm` takes when it is built.
    """
    names = []
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm) and not getattr(module, f"{hook.name}_orig").is_meta:
            for key in (f"{hook.name}_u", f"{hook.name}_v"):
                vector = getattr(module, key)
                changes.set(module._buffers, key, torch.full_like(vector, vector.numel() ** -0.5))
                names.append(key)
            for _ in range(_POWER_ITERATIONS):
                hook.compute_weight(module, do_power_iteration=True)
    return names


_POWER_ITERATIONS = 15


def selects_by_value(op: Any, args: tuple[Any, ...]) -> bool:
    """Return whether the values of the arguments decide how large the result is, as in `nonzero` or with a mask."""
    if not _has_dynamic_shape(op):
        return False
    if op_name(op) != "aten::index":
        return True
    return any(isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])


@cache
def _has_dynamic_shape(op: Any) -> bool:
    return torch.Tag.dynamic_output_shape in op.tags


@cache
def returns_an_argument(op: Any) -> bool:
    """Whether the result is an argument that was written to, by the operation's schema."""
    return any(item.alias_info is not None for item in op._schema.returns)


@cache
def gives_fresh_tensors(op: Any) -> bool:
    """Whether the operation returns new tensors or what it was given to write to, and neither views nor numbers."""
    kinds = {str(item.type) for item in op._schema.returns}
    return not op.is_view and kinds == {"Tensor"}


def is_view(op: Any) -> bool:
    """Whether the result shares the memory of an argument and is made without looking at it."""
    return bool(op.is_view)


def tensors_of_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors among the arguments of an operation, those in lists included."""
    values = (*args, *kwargs.values()) if kwargs else args
    items = (item for value in values for item in (value if isinstance(value, (list, tuple)) else (value,)))
    return [item for item in items if isinstance(item, torch.Tensor)]


@cache
def _written_arguments(op: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of each argument that the operation writes to, by its schema."""
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(op._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def mutated_tensors(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The arguments that the operation writes to, by its schema (`add_`, `copy_`, `out=`)."""
    written: list[torch.Tensor] = []
    for position, name in _written_arguments(op):
        value = args[position] if position < len(args) else kwargs.get(name)
        values = value if isinstance(value, (list, tuple)) else [value]
        written.extend(item for item in values if isinstance(item, torch.Tensor))
    return written


def storage_key(tensor: torch.Tensor) -> int | None:
    """An identifier shared by all views of one storage, valid while one of them is alive."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # sparse and other tensors without a storage
        return None
