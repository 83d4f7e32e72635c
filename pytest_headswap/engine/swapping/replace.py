"""Replace the module of a head: by the user's module, by an Identity, or by a new layer in an empty head slot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.stand_ins import surroundings_of
from pytest_headswap.engine.abstract.surroundings import with_replacement
from pytest_headswap.engine.detection.describe import DetectedHead
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.modules import get_registered_tensor, modules
from pytest_headswap.engine.swapping.transaction import Transaction

NewHead = nn.Module | Callable[[int, int], nn.Module]


def replace_module(model: nn.Module, path: str, new: nn.Module, changes: Transaction) -> None:
    """Register `new` under every name of the module at `path`.

    Raises:
        HeadSwapError: `unsupported_layer`, if the path is empty: the model itself cannot be replaced.
    """
    if not path:
        raise HeadSwapError(
            "unsupported_layer",
            "the head is the model itself or one of its parameters, so no module can replace it: swap without "
            "new_head, or wrap the layer in a model",
        )
    old = model.get_submodule(path)
    new.train(old.training)
    for module in list(model.modules()):
        for key in [key for key, child in module._modules.items() if child is old]:
            changes.set(module._modules, key, new)


def replaceable_path(item: DetectedHead) -> str:
    """Return the path of the module that runs the head's projection.

    Raises:
        HeadSwapError: `unsupported_layer`, if the projection does not run in a layer of its own.
    """
    if item.slot is not None:
        return item.slot.path
    if item.module_path not in (item.head.path, *item.head.aliases):
        raise HeadSwapError(
            "unsupported_layer",
            f"the projection with {item.tensors[0].names[0]} does not run in a separate layer, so no other module "
            "can replace it: swap without new_head and with num_classes of at least 1",
        )
    return item.head.path


def install_head(
    model: nn.Module, item: DetectedHead, num_classes: int, new_head: NewHead | None, changes: Transaction
) -> dict[str, nn.Parameter]:
    """Build the new head, or take the user's, and register it.

    The module is moved to the device, dtype and memory format of the layer that it replaces.

    Returns:
        The parameters of the new head by their names in the model.

    Raises:
        HeadSwapError: `bad_argument`, if the user's function returns something other than a module.
    """
    path = replaceable_path(item)
    template: torch.Tensor
    if item.slot is not None:
        template = model.get_parameter(item.slot.template) if item.slot.template else next(model.parameters())
    else:
        template = get_registered_tensor(model, item.tensors[0].names[0])
    if new_head is None:
        assert item.slot is not None, "without new_head, only a model without a head gets a new module"
        layer = item.slot.build(num_classes, template)
    elif isinstance(new_head, nn.Module):
        layer = new_head
    else:
        layer = new_head(item.head.in_features, num_classes)
        if not isinstance(layer, nn.Module):
            raise HeadSwapError("bad_argument", f"new_head returned {type(layer).__name__}, not a torch.nn.Module")
    layer.to(device=template.device, dtype=template.dtype)
    if template.dim() == 4 and template.stride(1) == 1 < template.stride(3):
        layer.to(memory_format=torch.channels_last)
    replace_module(model, path, layer, changes)
    return {f"{path}.{name}": value for name, value in layer.named_parameters()}


def remove_head(model: nn.Module, item: DetectedHead, changes: Transaction) -> None:
    """Replace the head, and every class-sized layer that follows it, by an Identity.

    Raises:
        HeadSwapError: `unsupported_layer`, if a tensor works on the classes, or a layer cannot be removed.
    """
    path = replaceable_path(item)
    inner = [tensor.names[0] for tensor in item.tensors if tensor.is_inner]
    if inner:
        raise HeadSwapError(
            "unsupported_layer",
            f"{', '.join(inner)} takes the classes in, so without the head nothing is left for it to read: call the "
            "backbone of the model instead, or swap with num_classes of at least 1",
        )
    downstream = {tensor.module for tensor in item.tensors} - {path}
    for layer in downstream:
        module = model.get_submodule(layer)
        if not layer or next(module.children(), None) is not None:
            raise HeadSwapError(
                "unsupported_layer",
                f"{layer or 'the model itself'} contains a class-sized tensor and cannot be removed",
            )
    for layer in (path, *sorted(downstream)):
        replace_module(model, layer, nn.Identity(), changes)


def drop_activation(
    model: nn.Module, item: DetectedHead, selected: Sequence[DetectedHead], changes: Transaction
) -> None:
    """Replace the softmax or sigmoid after the head by an Identity. `selected` are all heads that are swapped.

    Raises:
        HeadSwapError: `activation_in_forward`, if no module of its own applies it, or `shared_activation`, if that
            module runs elsewhere too.
    """
    if item.head.activation is None:
        return
    path = item.activation_path
    if not path or next(model.get_submodule(path).parameters(), None) is not None:
        raise HeadSwapError(
            "activation_in_forward",
            f"{item.head.activation} is applied in a forward method, not by a separate module, so it cannot be "
            "dropped: remove it from that method, or train on the output of the model",
        )
    own = {call for other in selected if other.activation_path == path for call in other.own_activation_calls}
    if not item.activation_calls <= own:
        raise HeadSwapError(
            "shared_activation",
            f"{path} applies {item.head.activation} after the head and also runs elsewhere in the model, so dropping "
            "it would change the backbone or another head: give the head an activation module of its own",
        )
    if not isinstance(model.get_submodule(path), nn.Identity):
        replace_module(model, path, nn.Identity(), changes)


def tensor_references(model: nn.Module) -> list[tuple[Any, Any]]:
    """Return where the model's modules and objects refer to tensors, other than by registering them.

    Each place is a container and the key there; the value is a tensor, or a tuple that holds tensors.
    """

    def same(tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    module_list = modules(model)
    places = [
        (module.__dict__, key)
        for module in module_list
        for key, value in module.__dict__.items()
        if issubclass(type(value), (torch.Tensor, tuple)) and with_replacement(value, same) is not None
    ]
    return places + [(container, key) for container, key, _ in surroundings_of(module_list).references(same)]


def replace_references(model: nn.Module, places: Iterable[tuple[Any, Any]], changes: Transaction) -> None:
    """Make every reference to a replaced tensor, among these places, refer to the new one.

    A tensor that a module still registers, such as a tied embedding, keeps its references.
    """
    new = changes.replaced_tensors()
    for module in modules(model):
        for registry in (module._parameters, module._buffers):
            if registry:
                for value in registry.values():
                    new.pop(id(value), None)

    def replacement(tensor: torch.Tensor) -> torch.Tensor | None:
        return new.get(id(tensor))

    for container, key in places:
        try:
            made = with_replacement(container[key], replacement)
        except (LookupError, AttributeError):
            continue  # a cache that was emptied since the places were listed
        if made is not None:
            changes.set(container, key, made)
