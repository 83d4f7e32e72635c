"""Change the class count of a head in place: the layers stay, and get new class-sized tensors.

The layer object keeps its class, geometry, hooks and names, and references to it stay valid. The same code handles a
Linear, a custom layer and a parameter of the model itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pytest_headswap.engine.detection.describe import WEIGHT, ClassTensor, DetectedHead
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.modules import get_registered_tensor, named_modules, owner_and_key
from pytest_headswap.engine.swapping.buffers import NewTensor
from pytest_headswap.engine.swapping.class_metadata import update_container_widths, update_layer_widths
from pytest_headswap.engine.swapping.initialization import Init, initialize
from pytest_headswap.engine.swapping.parametrized import computed_tensors
from pytest_headswap.engine.swapping.transaction import Transaction


def resize(
    model: nn.Module,
    item: DetectedHead,
    tensors: Sequence[ClassTensor],
    num_classes: int,
    init: Init,
    classes: dict[int, int],
    changes: Transaction,
) -> tuple[list[str], list[str]]:
    """Resize the class-sized tensors of a head.

    New tensors have the device and dtype of the old ones, and new parameters require gradients. `classes` maps new
    class indices to the old ones whose values are kept.

    Returns:
        The names of all new tensors, and notes for the user.

    Raises:
        HeadSwapError: `unsupported_layer`, for a weight that is a buffer or a tensor that is quantised.
    """
    old_count = item.head.num_classes
    computed = {
        tensor: NewTensor(tensor.spec, tensor.name, tensor.old, make_class_tensor(tensor.old, tensor.spec, num_classes))
        for tensor in computed_tensors(model, tensors)
    }
    by_owner: dict[nn.Module, list[NewTensor]] = {}
    widths: dict[nn.Module, dict[int, int]] = {}
    stored = {name for tensor in computed for name in tensor.stored}
    inner: set[nn.Module] = set()
    hooked: list[str] = []
    for spec in tensors:
        if spec.is_buffer and spec.part == WEIGHT and spec.names[0] not in stored and not callable(init):
            raise HeadSwapError(
                "unsupported_layer",
                f"{spec.names[0]} is the weight of the head but a buffer: its values are fixed, and those of new "
                "classes are unknown. Make it a parameter, or pass as init a function of (name, tensor) that fills it",
            )
        old = get_registered_tensor(model, spec.names[0])
        new = make_class_tensor(old, spec, num_classes)
        vars(new).update(vars(old))  # such as a mark that excludes it from weight decay
        if getattr(old, "_backward_hooks", None) or getattr(old, "_post_accumulate_grad_hooks", None):
            hooked.append(spec.names[0])
        for name in spec.names:
            owner, key = owner_and_key(model, name)
            changes.set(owner._parameters if key in owner._parameters else owner._buffers, key, new)
            layer = model.get_submodule(spec.module)
            of_layer = widths.setdefault(layer, {old_count: num_classes})
            if spec.is_inner:
                inner.add(layer)
            of_layer[old.shape[spec.dim]] = new.shape[spec.dim]  # such as anchors * classes
        owner, key = owner_and_key(model, spec.names[0])
        by_owner.setdefault(owner, []).append(NewTensor(spec, key, old, new))
    for layer, of_layer in widths.items():
        update_layer_widths(
            layer, of_layer, changes, takes_classes=layer in inner
        )  # before `initialize`: `reset_parameters` may read the widths
    for path in {spec.module for spec in tensors}:
        update_container_widths(model, path, old_count, num_classes, changes)
    renewed, notes = initialize(model, by_owner, computed, init, classes, changes)
    if hooked:
        notes.append(f"{', '.join(hooked)} had a gradient hook, and the new tensor has none: register it again")
    if init == "zeros" and item.computed_by and not computed:
        notes.append(
            f"init='zeros' sets {item.name} to 0, but {item.computed_by} computes the weight of the head from it, so "
            "the outputs may not be 0"
        )
    names = [made.spec.names[0] for items in by_owner.values() for made in items]
    for owner, key in renewed:
        path = next(path for path, module in named_modules(model) if module is owner)
        names.append(f"{path}.{key}".lstrip("."))
    return list(dict.fromkeys(names)), notes


def make_class_tensor(old: torch.Tensor, spec: ClassTensor, num_classes: int) -> torch.Tensor:
    """Return a tensor of zeros for `num_classes` classes, with the device, dtype and memory format of the old one.

    Raises:
        HeadSwapError: `unsupported_layer`, for a quantised tensor.
    """
    shape = list(old.shape)
    for dim, outer, inner in ((spec.dim, spec.outer, spec.inner), *spec.more):
        shape[dim] = outer * num_classes * inner
    if old.is_quantized or not (spec.is_buffer or old.is_floating_point() or old.is_complex()):
        raise HeadSwapError(
            "unsupported_layer", f"{spec.names[0]} has dtype {old.dtype}: swap the head before quantising the model"
        )
    strides = old.stride()
    order = sorted(range(old.dim()), key=lambda dim: -strides[dim])  # keeps the memory format
    permuted = torch.zeros([shape[dim] for dim in order], dtype=old.dtype, device=old.device)
    new = permuted.permute([order.index(dim) for dim in range(old.dim())])
    if spec.is_buffer:
        return new
    return nn.Parameter(new, requires_grad=True)
