"""Group the parameters of a model for an optimizer."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Collection
from typing import Any

from torch import nn

from pytest_headswap.engine.abstract.stand_ins import TENSOR_KINDS
from pytest_headswap.engine.dataflow.before_heads import HeadNames
from pytest_headswap.engine.dataflow.layer_order import is_coarse, layers_in_order
from pytest_headswap.engine.dataflow.recorder import record
from pytest_headswap.engine.errors import HeadSwapError, HeadSwapWarning
from pytest_headswap.engine.pytorch.modules import get_registered_tensor, is_registered, owner_path
from pytest_headswap.engine.swapping.plan import SwapPlan


def param_groups(
    plan: SwapPlan,
    heads: Collection[str],
    lr: float | None,
    backbone_lr: float | None,
    layer_decay: float | None,
    weight_decay: float | None,
) -> list[dict[str, Any]]:
    """Return the groups of `Swap.param_groups`. `heads` are the names of the heads' tensors in the inner model."""
    if lr is None:
        raise HeadSwapError("bad_argument", "pass lr, the learning rate of the heads")
    for name, value in (("lr", lr), ("backbone_lr", backbone_lr), ("weight_decay", weight_decay)):
        if value is not None and not (_is_number(value) and value >= 0):
            raise HeadSwapError("bad_argument", f"{name} must be a number of at least 0, not {value!r}")
    if layer_decay is not None and not (_is_number(layer_decay) and 0 < layer_decay <= 1):
        raise HeadSwapError("bad_argument", f"layer_decay must be more than 0 and at most 1, not {layer_decay!r}")
    decay = 1.0 if layer_decay is None else float(layer_decay)
    layers = _backbone_layers(plan, heads) if layer_decay is not None else []
    _warn_about_coarse(layers)
    depths = {id(tensor): depth for depth, layer in enumerate(layers) for tensor in layer}
    own = {id(get_registered_tensor(plan.model, name)) for name in heads if is_registered(plan.model, name)}
    nearest = float(backbone_lr) if backbone_lr is not None else lr * decay
    rates = {f"layer {depth + 1}": nearest * decay ** (len(layers) - depth - 1) for depth in range(len(layers))}
    rates = {"head": float(lr), **dict(reversed(rates.items())), "backbone": nearest}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {(name, keep): [] for name in rates for keep in (True, False)}
    for parameter in plan.outer.parameters():
        if parameter.requires_grad:
            backbone = f"layer {depths.get(id(parameter), 0) + 1}" if layers else "backbone"
            groups["head" if id(parameter) in own else backbone, parameter.dim() > 1].append(parameter)
    result = [
        _group(name, rates[name], decays, found, weight_decay) for (name, decays), found in groups.items() if found
    ]
    if not result:
        raise HeadSwapError(
            "bad_argument", "no parameter of the model has requires_grad=True, so there is none to train"
        )
    return result


def _group(
    name: str, rate: float, decays: bool, parameters: list[nn.Parameter], weight_decay: float | None
) -> dict[str, Any]:
    group = {"params": parameters, "lr": rate, "name": name if decays else f"{name}, no decay"}
    if not decays:
        return {**group, "weight_decay": 0.0}
    return group if weight_decay is None else {**group, "weight_decay": float(weight_decay)}


def _backbone_layers(plan: SwapPlan, heads: Collection[str]) -> list[list[nn.Parameter]]:
    """Return the parameters of each layer of the backbone that has one, in the order of the data flow."""
    training, tensor_kind = max(plan.search_result.tensor_kinds.items())  # in train mode, if the model runs in it
    kinds = TENSOR_KINDS[TENSOR_KINDS.index(tensor_kind) :]
    graph = record(plan.model, plan.inputs, training=training, tensor_kinds=kinds)
    try:
        owners = frozenset(map(owner_path, heads))
        layers = layers_in_order(plan.model, graph, HeadNames(frozenset(heads), owners))
    finally:
        graph.clear()
    return [[plan.model.get_parameter(name) for name in layer] for layer in layers]


def _warn_about_coarse(layers: list[list[nn.Parameter]]) -> None:
    weights = [sum(parameter.dim() > 1 for parameter in layer) for layer in layers]
    if is_coarse(weights):
        warnings.warn(
            f"layer_decay has little effect: {max(weights)} of the {sum(weights)} weights of the backbone share one "
            "learning rate, because data flows past the layers in between, or because they run in parallel",
            HeadSwapWarning,
            stacklevel=4,
        )


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)
