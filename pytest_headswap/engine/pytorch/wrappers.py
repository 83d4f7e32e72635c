"""Unwrap models from torch wrappers such as `DataParallel`: the engine works on the model inside."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.modules import named_modules


def unwrap(model: Any) -> tuple[nn.Module, str]:
    """Return the model inside `DataParallel`, `DistributedDataParallel` and `torch.compile`, and its path in `model`.

    The path is empty or ends with a dot.

    Raises:
        HeadSwapError: `not_a_module`, or `unsupported_model` for a script module or a sharded model.
    """
    if not isinstance(model, nn.Module):
        raise HeadSwapError("not_a_module", f"model must be a torch.nn.Module, not {type(model).__name__}")
    path = ""
    while True:
        child = _child(model)
        if not child:
            break
        model, path = model.get_submodule(child), f"{path}{child}."
    if isinstance(model, torch.jit.ScriptModule):
        raise script_module_error("the model")
    for name, module in named_modules(model):
        kind: Any = type(module)
        if _is_sharded(kind) or any(
            type(value) is not nn.Parameter and hasattr(value, "device_mesh") for value in module._parameters.values()
        ):
            raise HeadSwapError(
                "unsupported_model",
                f"{name or 'the model'} is sharded over processes, so its parameters cannot be replaced: swap the head "
                "first, then shard the model",
            )
    return model, path


def script_module_error(name: str) -> HeadSwapError:
    """Return the error for a script module with a head."""
    return HeadSwapError(
        "unsupported_model",
        f"{name} is a script module, whose layers cannot be changed: swap the head of the Python model, then script it",
    )


def check_swappable(model: nn.Module) -> None:
    """Raise HeadSwapError `unsupported_model` for a wrapper that keeps references to the current parameters."""
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules()):
        raise HeadSwapError(
            "unsupported_model",
            "DistributedDataParallel synchronises only the parameters it was created with, not those of a new head: "
            "swap the head of ddp.module, then wrap it again",
        )


@functools.cache
def _is_sharded(kind: Any) -> bool:
    return any(base.__module__.startswith("torch.distributed.fsdp") for base in kind.__mro__)


def _child(model: nn.Module) -> str:
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "module"
    return "_orig_mod" if "_orig_mod" in model._modules else ""  # the wrapper of torch.compile
