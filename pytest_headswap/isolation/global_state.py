"""Detect and undo changes a model makes to process-global state."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from pytest_headswap.isolation.patched_code import PatchedCode
from pytest_headswap.isolation.process_tree import StartedByModel


def _limit_reads() -> dict[str, Callable[[], Any]]:
    """Return functions that read the limits of this process, by name."""
    if sys.platform == "win32":
        return {}
    import resource

    numbers = {name: value for name, value in vars(resource).items() if name.startswith("RLIMIT_")}
    return {f"the limit {name}": partial(resource.getrlimit, number) for name, number in numbers.items()}


def _read_watched_state() -> dict[str, Any]:
    """Return the state whose changes are reported."""
    import torch

    from pytest_headswap.engine.pytorch import accelerators

    cudnn = torch.backends.cudnn
    reads: dict[str, Callable[[], Any]] = {
        "torch.get_default_dtype()": torch.get_default_dtype,
        "torch.get_default_device()": torch.get_default_device,
        "torch.get_num_threads()": torch.get_num_threads,
        "torch.get_deterministic_debug_mode()": torch.get_deterministic_debug_mode,
        "torch.is_grad_enabled()": torch.is_grad_enabled,
        "torch.is_inference_mode_enabled()": torch.is_inference_mode_enabled,
        "torch.is_anomaly_enabled()": torch.is_anomaly_enabled,
        "torch.is_autocast_enabled('cpu')": lambda: torch.is_autocast_enabled("cpu"),
        "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision,
        "torch.backends.cudnn.enabled": lambda: cudnn.enabled,
        "torch.backends.cudnn.benchmark": lambda: cudnn.benchmark,
        "torch.backends.cudnn.deterministic": lambda: cudnn.deterministic,
        "torch.backends.mkldnn.enabled": lambda: getattr(torch.backends.mkldnn, "enabled", None),
        **{f"torch.{kind}.synchronize()": partial(_synchronize, kind) for kind in accelerators.types()},
        "the number of torch's dispatch modes": torch._C._len_torch_dispatch_stack,
        "the number of torch's function modes": torch._C._len_torch_function_stack,
        "threading.active_count()": threading.active_count,
        "sys.getrecursionlimit()": sys.getrecursionlimit,
        "os.getcwd()": os.getcwd,
        "the number of torch's global module hooks": _count_global_hooks,
        **{f"the handler of {number.name}": partial(signal.getsignal, number) for number in signal.Signals},
        **_limit_reads(),
    }
    return {name: _read_safely(read) for name, read in reads.items()}


def _count_global_hooks() -> int:
    """Return how many hooks run at every call of any module."""
    from torch.nn.modules import module

    return sum(len(hooks) for name, hooks in vars(module).items() if name.startswith("_global_") and "hooks" in name)


def _synchronize(kind: str) -> None:
    """Raise if a kernel has failed: every later call to the devices in this process would fail too."""
    from pytest_headswap.engine.pytorch import accelerators

    if kind in accelerators.started():
        for device in accelerators.devices(kind):
            accelerators.synchronize(device)


def _read_safely(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - the state may be too broken to read
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


class GlobalState:
    """A snapshot of process-global state.

    Changes to the watched state are reported, and the process is then replaced. Random number generators, the
    environment, the import path and the alarm timer are restored silently, since libraries change them on import.
    """

    def __init__(self) -> None:
        from pytest_headswap.engine.pytorch import RandomState

        self._watched = _read_watched_state()
        self._code = PatchedCode()
        self._started = StartedByModel()
        self._random_state = RandomState()
        self._environment = dict(os.environ)
        self._path = list(sys.path)

    def changes(self) -> tuple[str, ...]:
        """Return descriptions of the changes since the last call."""
        now = _read_watched_state()
        words = [f"{name} is {now[name]}, it was {was}" for name, was in self._watched.items() if now[name] != was]
        self._watched = now
        if patches := self._code.changes():
            self._code = PatchedCode()  # only now, since it takes longer than to compare
        return (*words, *patches, *self._started.changes())

    def restore(self) -> None:
        """Restore the state whose changes are not reported."""
        self._random_state.restore()
        if os.environ != self._environment:
            os.environ.clear()
            os.environ.update(self._environment)
        sys.path[:] = self._path
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, 0)
