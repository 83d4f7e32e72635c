"""Replace a list of layers, one for each label, by a list of another length."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn

from pytest_headswap.engine.detection.describe import BIAS, WEIGHT, ClassTensor
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.swapping.buffers import NewTensor
from pytest_headswap.engine.swapping.initialization import Init, apply_init
from pytest_headswap.engine.swapping.replace import replace_module
from pytest_headswap.engine.swapping.transaction import Transaction


def replace_label_list(
    model: nn.Module, path: str, num_classes: int, init: Init, classes: Mapping[int, int], changes: Transaction
) -> list[str]:
    """Replace the list at `path` by one with newly initialised copies of its first layer.

    `classes` maps new indices to the old ones whose layers are kept.

    Returns:
        The names of the new tensors.

    Raises:
        HeadSwapError: `unsupported_layer`, if a layer cannot initialise itself.
    """
    old = model.get_submodule(path)
    layers = list(old.children())
    new = nn.ModuleList()
    for index in range(num_classes):
        layer = copy.deepcopy(layers[classes.get(index, 0)])
        layer.requires_grad_(True)
        if index not in classes:
            _initialize(f"{path}.{index}", layer, init)
        new.append(layer)
    replace_module(model, path, new, changes)
    return [f"{path}.{name}" for name in new.state_dict()]


def _initialize(path: str, layer: nn.Module, init: Init) -> None:
    for module in layer.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        elif module._parameters:
            raise HeadSwapError(
                "unsupported_layer",
                f"{path} is the layer of one label, and no layer for another label can be made of it: "
                f"{type(module).__name__} has no reset_parameters",
            )
    for name, parameter in layer.named_parameters():
        part = WEIGHT if parameter.dim() > 1 else BIAS
        spec = ClassTensor((f"{path}.{name}",), 0, 1, 1, is_buffer=False, part=part)
        apply_init(init, NewTensor(spec, name, parameter, parameter))
