"""Unwrap models from torch wrappers such as `DataParallel`: the engine works on the model inside."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.modules import buffers_of, named_modules, parameters_of


def unwrap(model: Any) -> tuple[nn.Module, str]:
    """Return the model inside `DataParallel`, `DistributedDataParallel` and `torch.compile`, and its path in `model`.

    The path is empty or ends with a dot.

    Raises:
        HeadSwapError: `not_a_module`, or `unsupported_model` for a script module, or for a model whose parameters are
            sharded, offloaded or partitioned.
    """
    if not isinstance(model, nn.Module):
        given = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise HeadSwapError("not_a_module", f"model must be a torch.nn.Module, not {given}: {_what_to_pass(model)}")
    model, path = without_wrappers(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise script_module_error("the model")
    named = named_modules(model)
    for name, module in named:
        kind: Any = type(module)
        if _is_sharded(kind) or any(map(_is_part, module._parameters.values())):
            raise HeadSwapError(
                "unsupported_model",
                f"{name or 'the model'} is sharded over processes, so its parameters cannot be replaced: swap the head "
                "and freeze first, then shard the model",
            )
    if name := _offloaded(named):
        raise HeadSwapError(
            "unsupported_model",
            f"the values of {name} are stored elsewhere and loaded only while forward runs, which would put the old "
            "head back: swap the head and freeze first, then offload the model",
        )
    if _are_emptied(named):
        raise HeadSwapError(
            "unsupported_model",
            "the parameters of the model are empty, because their values are partitioned over processes: swap the head "
            "and freeze first, then partition the model",
        )
    return model, path


def without_wrappers(model: nn.Module) -> tuple[nn.Module, str]:
    """Return the model inside of wrappers, and its path in `model`. It is not checked."""
    path = ""
    while child := _child(model):
        model, path = model.get_submodule(child), f"{path}{child}."
    return model, path


def _what_to_pass(value: Any) -> str:
    """Return what to pass instead of something that is not a module."""
    if isinstance(value, type):
        return f"pass an instance, such as {value.__name__}(...)"
    if value is None:
        return "check that the function that builds the model returns it"
    if isinstance(value, str):
        return "build the model first"
    if isinstance(value, Mapping) and any(isinstance(item, torch.Tensor) for item in value.values()):
        return "build the model, load the state with model.load_state_dict, and pass the model"
    items = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else []
    if any(isinstance(item, nn.Module) for item in items):
        return "pass the module that runs them, such as nn.Sequential, or one of them"
    if isinstance(getattr(value, "__self__", None), nn.Module):
        return f"pass the {type(value.__self__).__name__} that has this method"
    if hasattr(value, "graph_module"):  # a program of torch.export
        return "swap the head of the Python model, then export it"
    attributes = getattr(value, "__dict__", {})
    name = next((name for name, item in attributes.items() if isinstance(item, nn.Module)), "")
    if name:
        return f"pass its attribute {name!r}"
    return "call it in the forward method of a module" if callable(value) else "pass the model itself"


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


def _is_part(value: nn.Parameter | None) -> bool:
    """Return whether a parameter is a `DTensor`."""
    return type(value) is not nn.Parameter and hasattr(value, "device_mesh")


def _offloaded(named: Sequence[tuple[str, nn.Module]]) -> str:
    """Return the first parameter without values that code around the forward of its module loads, or "".

    A model that was built on the meta device has no such code, or has hooks, as with weight norm, but no values at all.
    """
    for path, module in named:
        own = module.__dict__.get("forward")
        is_wrapped = own is not None and getattr(own, "__self__", None) is not module
        if is_wrapped or module._forward_pre_hooks:
            name = next((name for name, value in parameters_of([(path, module)]) if value.is_meta), "")
            tensors = (tensor for found in (parameters_of(named), buffers_of(named)) for _, tensor in found)
            if name and (is_wrapped or not all(tensor.is_meta for tensor in tensors)):
                return name
    return ""


def _are_emptied(named: Sequence[tuple[str, nn.Module]]) -> bool:
    """Return whether parameters are empty and no other one has several dimensions, as after partitioning."""
    values = [value for _, value in parameters_of(named) if not isinstance(value, nn.UninitializedParameter)]
    return any(value.shape == (0,) for value in values) and all(value.dim() < 2 for value in values)


def _child(model: nn.Module) -> str:
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "module"
    return "_orig_mod" if "_orig_mod" in model._modules else ""  # the wrapper of torch.compile
