"""Run the changed layers of a head for real, on small random inputs of the shapes that an abstract run recorded.

A layer may have constraints that an abstract run does not see, such as groups that divide a width. Its new tensors
may also be stuck at 0 behind a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.stand_ins import REAL, StandIns, substituted
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import disable_fused_kernels, seed_all, tree_leaves
from pytest_headswap.engine.pytorch.modules import freeze_all_but, owner_path, parameters

_MAX_LAYER_BYTES = 2**28
_MAX_CONTAINER_BYTES = 2**24
"""Limit for a module that has other parameters too, such as a model that multiplies by its own parameter."""
_MAX_INPUT_BYTES = 2**24
_NOISE = 0.1


@dataclass(frozen=True)
class LayerCall:
    """The first call of a module in an abstract run. The tensors among its arguments have no values."""

    training: bool
    inputs: Inputs


Calls = dict[str, LayerCall]


@contextmanager
def recorded_calls(model: nn.Module, layers: Iterable[str], training: bool, calls: Calls) -> Iterator[None]:
    """Record the first call of these layers and of the modules that contain them. Use this within an abstract run."""
    for layer in layers:
        parts = layer.split(".") if layer else []
        for count in range(len(parts) + 1):
            path = ".".join(parts[:count])
            module = model.get_submodule(path)
            if path not in calls and not hasattr(module.forward, "records"):
                module.__dict__["forward"] = _recording(module.forward, path, training, calls)
    yield


def _recording(forward: Callable[..., Any], path: str, training: bool, calls: Calls) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        inputs = Inputs(args, kwargs)
        if not any(tensor.is_nested for tensor in inputs.tensors()):
            shapes = inputs.map_tensors(lambda x: torch.empty(x.shape, dtype=x.dtype, device="meta"))
            calls.setdefault(path, LayerCall(training, shapes))
        return forward(*args, **kwargs)

    wrapped.records = path  # type: ignore[attr-defined]
    return wrapped


def faulty_layers(model: nn.Module, calls: Mapping[str, LayerCall], names: Sequence[str]) -> dict[str, str]:
    """Run the layers of the tensors with these names, and return a sentence for each layer that does not work."""
    faults: dict[str, str] = {}
    for layer in dict.fromkeys(owner_path(name) for name in names):
        path = layer
        while path and path not in calls:  # its weight is read without a call of the layer
            path = path.rpartition(".")[0]
        if path in calls and path not in faults:
            mine = {name: tensor for name in names if (tensor := _parameter(model, name)) is not None}
            fault = _fault(model.get_submodule(path), calls[path], mine)
            if fault:
                faults[path] = f"{path or 'the model'} ({type(model.get_submodule(path)).__name__}) {fault}"
    return faults


def _parameter(model: nn.Module, name: str) -> nn.Parameter | None:
    path, _, key = name.rpartition(".")
    return model.get_submodule(path)._parameters.get(key)


def _fault(layer: nn.Module, call: LayerCall, new: Mapping[str, nn.Parameter]) -> str:
    tensors = [*layer.parameters(), *layer.buffers()]
    own = {id(parameter) for parameter in parameters(layer)}
    names = {name: parameter for name, parameter in new.items() if id(parameter) in own}
    is_container = len(names) < len(own)
    size = sum(tensor.nbytes for tensor in tensors)
    if size > (_MAX_CONTAINER_BYTES if is_container else _MAX_LAYER_BYTES):
        return ""
    if sum(tensor.nbytes for tensor in call.inputs.tensors()) > _MAX_INPUT_BYTES:
        return ""
    has_values = not any(tensor.is_meta for tensor in tensors)
    device = next((tensor.device for tensor in tensors if has_values), torch.device("cpu"))
    stand_ins = _RealStandIns(REAL)
    with substituted(layer, stand_ins), disable_fused_kernels(), torch.enable_grad():
        seed_all(0)
        layer.train(call.training)
        trainable = {name: stand_ins.stand_in_for(parameter) for name, parameter in names.items()}
        freeze_all_but(layer, trainable.values())
        inputs = call.inputs.map_tensors(lambda x: _random(x, device))
        try:
            outputs = _outputs(layer, inputs)
            if not has_values:
                return ""
            if not all(bool(output.isfinite().all()) for output in outputs):
                return "returns values that are not finite"
            dead = _without_gradient(outputs, trainable)
            if dead:  # such as the first of two factors, while the second is 0
                with torch.no_grad():
                    for value in trainable.values():
                        value.add_(torch.randn_like(value), alpha=_NOISE)
                dead = _without_gradient(_outputs(layer, inputs), {name: trainable[name] for name in dead})
        except Exception as error:  # noqa: BLE001 - a layer may raise anything, a device lack the kernel of a gradient
            lines = str(error).strip().splitlines() or ["no message"]
            return f"raises {type(error).__name__} with the new class count: {lines[0][:300]}"
        return f"gives {', '.join(dead)} a gradient of 0, so training would have no effect" if dead else ""


def _outputs(layer: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    leaves = tree_leaves(layer(*inputs.args, **inputs.kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def _without_gradient(outputs: Sequence[torch.Tensor], trainable: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of the parameters whose gradient is 0. Those that the outputs do not depend on are left out."""
    terms = [(output * torch.randn_like(output)).sum() for output in outputs if output.requires_grad]
    if not terms or not trainable:
        return []
    gradients = torch.autograd.grad(sum(terms), list(trainable.values()), allow_unused=True)  # type: ignore[arg-type]
    return [
        name
        for name, gradient in zip(trainable, gradients, strict=True)
        if gradient is not None and gradient.numel() and not gradient.any()  # type: ignore[redundant-expr]
    ]


def _random(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)  # valid as an index and as a mask
    dtype = torch.complex64 if tensor.is_complex() else torch.float32
    return torch.randn(tensor.shape, dtype=dtype, device=device).to(tensor.dtype)


class _RealStandIns(StandIns):
    """Copies of all tensors, and random ones on the CPU for those on the meta device."""

    def _make(self, tensor: torch.Tensor) -> torch.Tensor:
        return _random(tensor, torch.device("cpu")).abs() if tensor.is_meta else super()._make(tensor)
