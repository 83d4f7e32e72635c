"""Swap the head of a model. The swap is verified, and rolled back if verification fails."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from pytest_headswap.engine.abstract.infer_inputs import infer_inputs
from pytest_headswap.engine.abstract.stand_ins import META
from pytest_headswap.engine.detection.describe import cautions
from pytest_headswap.engine.detection.search import detect_heads
from pytest_headswap.engine.errors import HeadSwapError, HeadSwapWarning
from pytest_headswap.engine.pytorch.inputs import read_inputs
from pytest_headswap.engine.pytorch.modules import named_parameters, parameters
from pytest_headswap.engine.pytorch.wrappers import unwrap
from pytest_headswap.engine.swapping.advice import advice
from pytest_headswap.engine.swapping.class_map import ClassMap
from pytest_headswap.engine.swapping.class_metadata import untie, update_class_metadata
from pytest_headswap.engine.swapping.class_names import ClassNames, empty_mappings
from pytest_headswap.engine.swapping.head_after_swap import head_after_swap, with_prefix
from pytest_headswap.engine.swapping.initialization import Init
from pytest_headswap.engine.swapping.made_heads import MadeHeads, remember_heads
from pytest_headswap.engine.swapping.numbers_around import NumbersAround
from pytest_headswap.engine.swapping.optimizers import exchange_parameters, read_optimizers, watch_replaced
from pytest_headswap.engine.swapping.options import HeadSwap, SwapOptions
from pytest_headswap.engine.swapping.plan import SwapPlan, outside_inference_mode, plan_swap
from pytest_headswap.engine.swapping.rebuild import Rebuilt, follow_rebuilt
from pytest_headswap.engine.swapping.replace import (
    NewHead,
    drop_activation,
    replace_references,
)
from pytest_headswap.engine.swapping.select_heads import with_own_counts
from pytest_headswap.engine.swapping.settle import verify_and_settle
from pytest_headswap.engine.swapping.several_heads import options_by_path, paths_of_heads
from pytest_headswap.engine.swapping.swap import Swap
from pytest_headswap.engine.swapping.swap_one import swap_one
from pytest_headswap.engine.swapping.ties import check_untied, tie_notes
from pytest_headswap.engine.swapping.transaction import Transaction
from pytest_headswap.head import Heads


@outside_inference_mode
def find_heads(model: nn.Module, example_inputs: Any = None) -> Heads:
    """Find the classification heads of `model` without changing it.

    Args:
        model: any module, on any device and in any dtype, including `meta`.
        example_inputs: a tensor, a tuple of positional inputs, a mapping of keyword inputs, or an object with tensors
            as the only input. Usually only shapes and dtypes matter, for example (2, 3, 224, 224) for images: batch,
            channels, height, width. A model with batch norm needs a batch of at least 2. None: inputs are inferred.

    Returns:
        The heads in the order in which they reach the outputs, with the evidence for each head and the rejected
        layers.

    Raises:
        NoHeadError: the model has no head, and no slot for one.
        HeadSwapError: the model cannot be run, or its outputs cannot be traced.
    """
    inner, path = unwrap(model)
    result = detect_heads(inner, read_inputs(example_inputs) or infer_inputs(inner))
    if result.doubt is not None:
        raise result.doubt
    heads = result.heads()
    rejected = tuple(replace(item, path=path + item.path) for item in heads.rejected)
    return replace(heads, heads=tuple(with_prefix(head, path) for head in heads), rejected=rejected)


@outside_inference_mode
def swap_head(
    model: nn.Module,
    num_classes: int | Mapping[str, int],
    example_inputs: Any = None,
    *,
    head: str | Sequence[str] | None = None,
    new_head: NewHead | Mapping[str, NewHead] | None = None,
    init: Init = "default",
    class_map: ClassMap | Mapping[str, ClassMap] | None = None,
    class_names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    activation: str = "keep",
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
) -> Swap:
    """Replace the classification heads of `model` in place by new heads with `num_classes` classes.

    Heads with the class count of the main head are swapped together if they predict the same. Layers keep their class,
    geometry and names. New tensors have the device and dtype of the old ones. The swap is verified by an abstract run,
    and undone if any output does not have the new class count.

    Args:
        model: any module, on any device and in any dtype, including `meta`.
        num_classes: class count of the new head, of any integer type. 0 removes the head, so that the model returns
            features. To give several heads different counts, pass a mapping of paths, as for `head`, to counts of at
            least 1. Then `new_head`, `class_map` and `class_names` are mappings of paths too; heads that they leave
            out have the default. A function as `new_head`, `init` and `activation` apply to all heads.
        example_inputs: as for `find_heads`.
        head: path of the head to swap, or several paths, for models whose heads predict different things. The name of
            a tensor of the head works as well.
        new_head: the new head: a module, or a function of `(in_features, num_classes)` that returns one. It is moved
            to the device and dtype of the old head.
        init: values of the new head, as a name or a function of `(name, tensor)` that fills the tensor. `default` is
            the layer's own initialisation, or uniform weights within 1 / sqrt(fan_in), as in torch's `Linear`, if it
            has no `reset_parameters`. `zeros` sets weights and biases to 0. `prior` draws normal weights with a
            standard deviation of 0.01, and sets biases so that a sigmoid gives each class a probability of 0.01
            (Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4.1, "Initialization"). Random values
            follow `torch.manual_seed`.
        class_map: old classes whose values are kept: a mapping of new index to old index or name, or a sequence with
            an old index, a name or None for each new class.
        class_names: names of the new classes, for models that store them (`id2label`).
        activation: `keep`, or `drop` to remove the softmax or sigmoid after the head, so that the model returns
            logits.
        optimizer: an optimizer that was made before the swap, or several. The parameters of the new heads take the
            places of the old ones in its groups, with the options of the group, and the state of the old ones, such as
            momentum, is dropped. This follows `restore` and `reapply`. Without it, an optimizer that holds the old
            heads warns at its next step.

    Returns:
        The swap: the model with its new heads, and methods to restore the old ones.

    Raises:
        NoHeadError: the model has no head, and no slot for one.
        HeadSwapError: nothing was swapped; `reason` says why.
    """
    optimizers = read_optimizers(optimizer)
    options: Sequence[SwapOptions]
    counts: int | dict[str, int]
    if isinstance(num_classes, Mapping):
        by_path = options_by_path(num_classes, head, new_head, init, class_map, class_names, activation)
        plan = plan_swap(model, read_inputs(example_inputs), list(by_path))
        options = [by_path[path] for path in paths_of_heads(plan, list(by_path))]
        counts = {path: given.num_classes for path, given in by_path.items()}
        selected = with_own_counts(plan.search_result, plan.selected, [given.num_classes for given in options])
        plan = replace(plan, selected=selected)
    else:
        given = SwapOptions(num_classes, new_head, init, class_map, class_names, activation)  # type: ignore[arg-type]
        plan = plan_swap(model, read_inputs(example_inputs), head)
        options = [given] * len(plan.selected)
        counts = given.num_classes
    before = dict(named_parameters(plan.model))
    swap = _execute(plan, options, counts, optimizers=optimizers)
    watch_replaced(before, plan.model)
    swap.notes += tuple(advice([HeadSwap(item, given) for item, given in zip(plan.selected, options, strict=True)]))
    if set(plan.search_result.tensor_kinds.values()) == {META}:
        swap._plan = replace(plan, inputs=plan.inputs.without_values())  # release the memory of a large batch
    for note in swap.notes[len(plan.search_result.notes) :]:
        warnings.warn(note, HeadSwapWarning, stacklevel=3)
    return swap


@outside_inference_mode
def apply_plan(plan: SwapPlan, num_classes: int, *, verify: bool = True) -> Swap:
    """Swap the heads of a plan. The model must not have changed since the plan was made.

    With `verify=False` the swap is not verified: use this if the caller checks the outputs itself. The model is run
    only if it stores numbers that may have to follow the class count.
    """
    options = SwapOptions(num_classes)
    return _execute(plan, [options] * len(plan.selected), options.num_classes, verify=verify)


def _execute(
    plan: SwapPlan,
    options: Sequence[SwapOptions],
    num_classes: int | dict[str, int],
    *,
    verify: bool = True,
    optimizers: Sequence[Optimizer] = (),
) -> Swap:
    """Swap the heads of a plan. `options` describes what replaces each of them."""
    inner, prefix, result = plan.model, plan.prefix, plan.search_result
    swaps = [HeadSwap(item, given) for item, given in zip(plan.selected, options, strict=True)]
    _check_new_heads(swaps)
    before = dict(named_parameters(inner)) if optimizers else {}
    changes = Transaction(inner)
    around = NumbersAround(inner, swaps, [item for item in result.detected if item not in plan.selected])
    slots = [item.slot.path for item in plan.selected if item.slot is not None]
    class_names = ClassNames(empty_mappings(inner)) if slots else around.class_names()
    old_names = {swap.item.name: class_names.indices(swap.old_count, swap.item.name) for swap in swaps}
    swaps = around.swaps = [swap.with_classes(old_names[swap.item.name]) for swap in swaps]
    names: list[str] = []
    notes = (*result.notes, *cautions(plan.selected))
    try:
        for swap in swaps:
            made, uncertain = swap_one(inner, swap, changes)
            names += made
            notes = (*notes, *uncertain)
            if swap.options.activation == "drop":
                drop_activation(inner, swap.item, plan.selected, changes)
        replace_references(inner, plan.tensor_references, changes)
        near = (*around.layers, *around.containers)
        metadata_notes = update_class_metadata(inner, around.counts_at, changes, near, around.shared, slots or None)
        class_names.update(around.swap_of, changes)
        around.follow_named(changes)
        is_new = not slots and all(swap.new_count for swap in swaps)
        rebuilt = follow_rebuilt(inner, around, result.used, changes) if is_new else Rebuilt()
        around.explain(rebuilt.explained)
        class_names.explain(rebuilt.explained)
        untied = untie(inner, changes)
        notes = (*notes, *metadata_notes, *untied, *rebuilt.notes)
        for swap in rebuilt.unseen:
            made, uncertain = swap_one(inner, swap, changes)
            names += made
            notes = (*notes, *uncertain)
        if rebuilt.unseen:
            replace_references(inner, plan.tensor_references, changes)
        swaps = [*swaps, *rebuilt.unseen]
        plan = replace(plan, selected=tuple(swap.item for swap in swaps))
        rename = partial(class_names.update_doubtful, around.swap_of, changes)
        notes = (*notes, *verify_and_settle(plan, swaps, names, around, changes, rename, always=verify))
        if verify:
            notes = (*notes, *class_names.without_effect(around.swaps))
            check_untied(inner, plan.inputs, result.tensor_kinds, plan.selected)
        notes = (*notes, *tie_notes(inner, plan.selected, option_is_off=bool(untied)))
        if optimizers:
            exchange_parameters(inner, prefix, before, optimizers, changes)
    except BaseException:
        changes.roll_back()
        raise
    new = [head_after_swap(inner, swap) for swap in swaps if swap.new_count]
    heads = tuple(with_prefix(head, prefix) for head in new)
    old = tuple(with_prefix(item.head, prefix) for item in plan.selected)
    own = MadeHeads(
        tuple(dict.fromkeys(names)),
        tuple(head.path for head in new),
        plan.names_of_tensors(),
        plan.were_frozen,
        sum(parameter.numel() for parameter in parameters(inner)),
    )
    remember_heads(inner, own, changes)
    names = [prefix + name for name in own.names]
    return Swap(plan.outer, num_classes, heads, old, notes, tuple(names), changes, plan, own, old_names)


def _check_new_heads(swaps: Sequence[HeadSwap]) -> None:
    """Raise HeadSwapError `bad_argument` if several heads would share one module."""
    modules = [swap.options.new_head for swap in swaps if isinstance(swap.options.new_head, nn.Module)]
    if len(set(map(id, modules))) < len(modules):
        raise HeadSwapError(
            "bad_argument",
            f"one new_head module cannot replace {len(modules)} heads: pass a function of (in_features, num_classes)",
        )
