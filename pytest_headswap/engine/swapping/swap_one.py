"""Swap a single head: resize its tensors, replace or remove its module, or replace a list with one layer a label."""

from __future__ import annotations

import torch
from torch import nn

from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.swapping.label_list import replace_label_list
from pytest_headswap.engine.swapping.options import HeadSwap
from pytest_headswap.engine.swapping.replace import install_head, remove_head, replaceable_path
from pytest_headswap.engine.swapping.resize import resize
from pytest_headswap.engine.swapping.transaction import Transaction


def swap_one(model: nn.Module, swap: HeadSwap, changes: Transaction) -> tuple[list[str], list[str]]:
    """Swap one head. Return the names of its new tensors, and notes for the user."""
    item, options, classes = swap
    count, new_head, init = options.num_classes, options.new_head, options.init
    if item.label_list is not None:
        if count == 0 or new_head is not None:
            raise HeadSwapError(
                "unsupported_layer",
                f"{item.label_list} holds one layer for each label: swap it without new_head and with num_classes of "
                "at least 1",
            )
        names = replace_label_list(model, item.label_list, count, init, classes, changes)
        resized, notes = resize(model, item, item.tensors, count, init, classes, changes)
        return [*names, *resized], notes
    if count == 0:
        if item.slot is None:
            remove_head(model, item, changes)
        return [], []
    if new_head is None and item.slot is None:
        return resize(model, item, item.tensors, count, init, classes, changes)
    made = install_head(model, item, count, new_head, changes)
    if callable(init):
        with torch.no_grad():
            for name, parameter in made.items():
                init(name, parameter)
    path = replaceable_path(item)
    downstream = [tensor for tensor in item.tensors if tensor.module != path]
    tensors = [f"{path}.{name}" for name in model.get_submodule(path).state_dict()]
    resized, notes = resize(model, item, downstream, count, init, classes, changes)
    return [*tensors, *resized], notes
