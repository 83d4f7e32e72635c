"""Devices other than the CPU, of any type that torch can name.

Torch has a module for most types, such as `torch.cuda` or `torch.npu`, with functions of the same names. A type without
one, such as `xla`, is known by its tensors. Counting CUDA devices starts no runtime, so that forked processes can use
them; of other types, it may.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import torch

from pytest_headswap._devices import is_real

_TYPES = ("cuda", "mps", "xpu", "mtia", "hpu")
_UNCOUNTED_TYPES = ("xla",)
_OUT_OF_MEMORY = re.compile(r"out of (device )?memory|OUT_OF_\w*MEMORY|RESOURCE_EXHAUSTED|_STATUS_ALLOC_FAILED", re.I)


class UnsupportedDtypeError(RuntimeError):
    """A device cannot hold tensors of some dtype."""


def current_type() -> str:
    """Return the type of the accelerator that torch names here, such as `cuda`; empty if there is none."""
    accelerator = getattr(torch, "accelerator", None)  # torch 2.6 and later
    current = accelerator.current_accelerator() if accelerator is not None else None
    return next((kind for kind in (*([current.type] if current else []), *types()) if count(kind)), "")


def types() -> tuple[str, ...]:
    """Return the types that may have a module in torch, including that of a private backend that was imported."""
    return (*_TYPES, torch._C._get_privateuse1_backend_name())


def devices(text: str) -> list[torch.device]:
    """Return the devices that an option names: `cpu` (none), `auto`, all of a type, or one by its index."""
    kind, _, index = text.partition(":")
    if kind == "auto":
        kind = current_type()
    return [torch.device(kind, number) for number in ([int(index)] if index else range(count(kind)))]


def devices_of_worker(found: Sequence[torch.device], worker: str) -> list[torch.device]:
    """Return the device that a worker uses, and a second one to move models to if there are several.

    Workers with numbers take turns, also those of pytest-xdist, `gw0` and so on. Any other name stands for the first.
    """
    numbered = re.fullmatch(r"(?:gw)?(\d+)", worker, re.ASCII)
    number = int(numbered[1]) if numbered else 0
    return [found[(number + step) % len(found)] for step in range(min(2, len(found)))]


def count(kind: str) -> int:
    """Return the number of devices of a type; 0 for the CPU and for types that cannot be used here."""
    if kind in ("", "cpu"):
        return 0
    module = _module(kind)
    if hasattr(module, "device_count"):
        # torch.cuda.is_available starts the driver; torch.mtia of torch 2.4 counts the devices of other types
        available = kind == "cuda" or _call(module, "is_available", True)
        return max(0, int(module.device_count())) if available else 0
    number = 0
    while _gives_values(kind, number):
        number += 1
    return number


def started() -> list[str]:
    """Return the types whose runtime is known to be up in this process. No runtime is started."""
    lazy = getattr(sys.modules.get("torch_xla"), "_XLAC", None)
    of_xla = ["xla"] if _call(lazy, "_xla_runtime_is_initialized") else []
    return [*(kind for kind in types() if _is_up(_module(kind))), *of_xla]


def prepare_autograd() -> None:
    """Start the runtime of backends whose devices torch cannot count before, if such a backend was imported.

    Autograd counts devices once, in the first backward pass of a process. Later ones fail on any other device.
    """
    for kind in _UNCOUNTED_TYPES:
        count(kind)


def breaks_fork(text: str) -> bool:
    """Return whether a forked process may be unable to use the devices that an option names."""
    kind = current_type() if text == "auto" else text.partition(":")[0]
    return (kind not in ("", "cuda") and is_real(kind)) or bool(started())


def unusable_type() -> str:
    """Return the type of the accelerator if there is one that this process, a fork, cannot use; otherwise empty."""
    kind = current_type()
    module = _module(kind)
    return kind if _call(module, "_is_in_bad_fork") or not _call(module, "is_available", True) else ""


def name(device: torch.device) -> str:
    """Return the name that the maker gives the device, such as `NVIDIA H200`; empty if unknown. Starts the runtime."""
    return str(_ask(device, "get_device_name") or "")


def identity(device: torch.device) -> str:
    """Return a name of the device that is the same in all processes, even if they number devices differently."""
    properties = _ask(device, "get_device_properties")
    return str(getattr(properties, "uuid", f"{device.type}-{device.index}"))  # torch 2.4 has no uuid


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of memory that are free on the device; None if unknown."""
    memory = _ask(device, "mem_get_info")
    return int(memory[0]) if memory else None


def synchronize(device: torch.device, results: Iterable[torch.Tensor] = ()) -> None:
    """Wait for pending work on the device, so that its errors are raised here.

    Some devices, such as `xla`, compute results only when they are read. The results on the device are therefore read.
    """
    if device.type == "xla" and "torch_xla" in sys.modules:
        sys.modules["torch_xla"].sync(wait=True)  # all at once: reading one would compile a program for it
    for result in results:
        if result.device == device:
            result.cpu()
    _ask(device, "synchronize")


def empty_cache(device: torch.device) -> None:
    """Empty torch's cache of device memory, so that other processes can use it."""
    with suppress(RuntimeError):  # after a failed kernel every call fails
        _call(_module(device.type), "empty_cache")


def seed(value: int) -> None:
    """Seed the random number generators of all devices whose runtime is up. Torch would queue the calls for others."""
    for kind in started():
        module = _module(kind)
        _call(module, "manual_seed_all" if hasattr(module, "manual_seed_all") else "manual_seed", None, value)


def random_states() -> dict[torch.device, torch.Tensor]:
    """Return the states of the random number generators of all devices whose runtime is up."""
    kinds = [kind for kind in started() if hasattr(_module(kind), "get_rng_state")]
    found = [device for kind in kinds for device in devices(kind)]
    states = {device: _ask(device, "get_rng_state") for device in found}
    return {device: state for device, state in states.items() if state is not None}


def set_random_state(device: torch.device, state: torch.Tensor) -> None:
    """Set the state of the random number generator of a device."""
    _ask(device, "set_rng_state", state)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device ran out of memory, either for tensors or for its libraries."""
    return isinstance(error, RuntimeError) and (
        isinstance(error, torch.cuda.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None
    )


def supports(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the device can hold tensors of a dtype.

    Raises:
        RuntimeError: the device is out of memory.
    """
    one = torch.ones(1, device="cpu").to(dtype)
    try:
        return one.to(device).cpu().dtype == dtype
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return False


def require_dtypes(device: torch.device, tensors: Iterable[torch.Tensor]) -> None:
    """Raise if the device cannot hold tensors of all these dtypes.

    Raises:
        UnsupportedDtypeError: it cannot; MPS has no float64, for example.
    """
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()}
    if lacking := sorted(str(dtype) for dtype in dtypes if not supports(device, dtype)):
        raise UnsupportedDtypeError(f"does not support {', '.join(lacking)}, which this model has")


def shortcoming(error: BaseException) -> str:
    """Return what a device lacks for a model, such as memory; empty for any other error."""
    if is_out_of_memory(error):
        return "does not have enough memory for this model"
    return str(error) if isinstance(error, UnsupportedDtypeError) else ""


def _module(kind: str) -> Any:
    return getattr(torch, kind, None) if kind else None


def _is_up(module: Any) -> bool:
    # torch.mps cannot say: its runtime is up wherever there is a device
    function = getattr(module, "is_initialized", None) or getattr(module, "device_count", None)
    return bool(function()) if function is not None else False


def _call(module: Any, function: str, default: Any = None, *arguments: Any) -> Any:
    """Return the result of a function of a backend, or the default if the backend lacks it."""
    return getattr(module, function)(*arguments) if hasattr(module, function) else default


def _ask(device: torch.device, function: str, *arguments: Any) -> Any:
    """Return the result of a function of the backend about a device. Backends with one device may not take it."""
    module = _module(device.type)
    if not hasattr(module, function):
        return None
    return getattr(module, function)(*arguments, *((device,) if count(device.type) > 1 else ()))


def _gives_values(kind: str, index: int) -> bool:
    try:
        return torch.ones((), device=torch.device(kind, index)).item() == 1
    except Exception:  # noqa: BLE001 - a device that is not there may raise anything
        return False
