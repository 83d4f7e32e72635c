"""Describe layers of class size that no output of this forward shows, such as an auxiliary head behind a flag."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import nn

from pytest_headswap.engine.detection.describe import BIAS, OTHER, WEIGHT, ClassTensor, DetectedHead
from pytest_headswap.engine.pytorch.modules import named_buffers, named_parameters, owner_path
from pytest_headswap.engine.swapping.stored_numbers import is_torch
from pytest_headswap.head import Head

_CONVOLUTION_DIMS = 3


def unseen_heads(model: nn.Module, dims: Mapping[str, Sequence[int]], count: int) -> list[DetectedHead]:
    """Return one head for each module that owns a class-sized tensor.

    Args:
        model: the model.
        dims: the class-sized dimensions of each tensor, by its name.
        count: the class count.
    """
    tensors = {**dict(named_parameters(model)), **dict(named_buffers(model))}
    every_name = _names_by_identity(model)
    by_module: dict[str, list[ClassTensor]] = {}
    for name, (dim, *more) in dims.items():
        tensor = tensors[name]
        is_buffer = not isinstance(tensor, nn.Parameter)
        part = OTHER if is_buffer else WEIGHT if tensor.dim() > 1 else BIAS
        spec = ClassTensor(every_name[id(tensor)], dim, 1, 1, is_buffer, part, more=tuple((d, 1, 1) for d in more))
        by_module.setdefault(owner_path(name), []).append(spec)
    return [_described(path, specs, tensors[specs[0].names[0]], count) for path, specs in by_module.items()]


def requested_unseen_heads(model: nn.Module, path: str, counts: Collection[int]) -> list[DetectedHead]:
    """Return the heads in the module, or with the tensor, at `path`. `counts` are the class counts of other heads."""
    for count in sorted(set(counts) - {0}, reverse=True):
        dims = {
            name: found
            for name, tensor in (*named_parameters(model), *named_buffers(model))
            if name == path or name.startswith(f"{path}.")
            if (found := _class_dims(model.get_submodule(owner_path(name)), tensor, count))
        }
        if dims:
            return unseen_heads(model, dims, count)
    return []


def _class_dims(owner: nn.Module, tensor: torch.Tensor, count: int) -> list[int]:
    dims = [dim for dim, size in enumerate(tensor.shape) if size == count]
    is_layer = is_torch(owner) and not isinstance(owner, (nn.ParameterDict, nn.ParameterList))
    return dims[:1] if is_layer else dims  # torch's own layers put their outputs first


def _names_by_identity(model: nn.Module) -> dict[int, tuple[str, ...]]:
    names: dict[int, tuple[str, ...]] = {}
    registered: Iterable[tuple[str, torch.Tensor]] = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    for name, tensor in registered:
        names[id(tensor)] = (*names.get(id(tensor), ()), name)
    return names


def _described(path: str, specs: Sequence[ClassTensor], first: torch.Tensor, count: int) -> DetectedHead:
    spatial = first.dim() - 2
    head = Head(
        path,
        f"conv{spatial}d" if first.dim() >= _CONVOLUTION_DIMS else "linear",
        in_features=first.shape[1] if first.dim() > 1 else 1,
        num_classes=count,
        class_dim=1,
        role="auxiliary",
        tensors=tuple(spec.names[0] for spec in specs),
        evidence=("no output of this forward shows it",),
    )
    return DetectedHead(head, tuple(specs), (), module_path=path)
