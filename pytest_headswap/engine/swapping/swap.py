"""Swap the head of a model. The swap is verified, and rolled back if verification fails."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.infer_inputs import infer_inputs
from pytest_headswap.engine.abstract.stand_ins import META
from pytest_headswap.engine.detection.describe import cautions
from pytest_headswap.engine.detection.search import detect_heads
from pytest_headswap.engine.errors import HeadSwapError, HeadSwapWarning
from pytest_headswap.engine.pytorch.inputs import read_inputs
from pytest_headswap.engine.pytorch.modules import get_registered_tensor
from pytest_headswap.engine.pytorch.wrappers import unwrap
from pytest_headswap.engine.swapping.class_map import ClassMap, resolve_class_map
from pytest_headswap.engine.swapping.class_metadata import untie, update_class_metadata
from pytest_headswap.engine.swapping.class_names import ClassNames, empty_mappings
from pytest_headswap.engine.swapping.head_after_swap import head_after_swap, with_prefix
from pytest_headswap.engine.swapping.initialization import Init
from pytest_headswap.engine.swapping.made_heads import MadeHeads, followed, forget_heads, remember_heads
from pytest_headswap.engine.swapping.numbers_around import NumbersAround
from pytest_headswap.engine.swapping.options import SwapOptions
from pytest_headswap.engine.swapping.plan import outside_inference_mode, plan_swap
from pytest_headswap.engine.swapping.rebuild import Rebuilt, follow_rebuilt
from pytest_headswap.engine.swapping.replace import (
    NewHead,
    drop_activation,
    replace_references,
)
from pytest_headswap.engine.swapping.settle import verify_and_settle
from pytest_headswap.engine.swapping.swap_one import swap_one
from pytest_headswap.engine.swapping.ties import check_untied, tie_notes
from pytest_headswap.engine.swapping.transaction import Transaction
from pytest_headswap.head import Head, Heads

if TYPE_CHECKING:
    from pytest_headswap.engine.swapping.plan import SwapPlan


_MAX_LISTED = 4  # heads shown in the repr of a swap


@dataclass(repr=False)
class Swap:
    """A model with its new heads, and the means to restore the old ones.

    Attributes:
        model: the model that was passed in, changed in place.
        num_classes: class count of the new heads; 0 if the heads were removed.
        heads: the new heads; empty if the heads were removed.
        old_heads: the heads before the swap.
        notes: what else the user should know, such as a buffer whose new values are uncertain.
    """

    model: nn.Module
    num_classes: int
    heads: tuple[Head, ...]
    old_heads: tuple[Head, ...]
    notes: tuple[str, ...]
    _names: tuple[str, ...]
    _changes: Transaction
    _plan: SwapPlan
    _made: MadeHeads

    def __repr__(self) -> str:
        heads = [
            f"{head.path or '(the model itself)'} {head.num_classes} -> {self.num_classes}" for head in self.old_heads
        ]
        more = f", and {len(heads) - _MAX_LISTED} more heads" if len(heads) > _MAX_LISTED else ""
        return f"Swap({type(self._plan.model).__name__}: {', '.join(heads[:_MAX_LISTED])}{more})"

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the new heads, for the optimizer."""
        return (parameter for _, parameter in self.named_parameters())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters of the new heads with their names in the model."""
        for name in self._names:
            value = get_registered_tensor(self.model, followed(self.model, name))
            if isinstance(value, nn.Parameter):
                yield name, value

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return only the tensors of the new heads, by their names in the model."""
        return {name: get_registered_tensor(self.model, followed(self.model, name)).detach() for name in self._names}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load the tensors of a head that `state_dict` returned.

        Raises:
            HeadSwapError: `bad_argument`, if the names or shapes do not match this head.
        """
        mine = self.state_dict()
        given: Any = state
        if not isinstance(given, Mapping) or not all(isinstance(value, torch.Tensor) for value in given.values()):
            raise HeadSwapError("bad_argument", "state must be a mapping of names to tensors, as state_dict() returns")
        missing, unknown = sorted(mine.keys() - state.keys()), sorted(map(str, state.keys() - mine.keys()))
        wrong = [name for name in mine.keys() & state.keys() if mine[name].shape != state[name].shape]
        if missing or unknown or wrong:
            shapes = ", ".join(f"{n} {tuple(state[n].shape)} into {tuple(mine[n].shape)}" for n in sorted(wrong))
            raise HeadSwapError(
                "bad_argument",
                f"the state does not belong to this head: missing {missing}, unknown {unknown}, "
                f"wrong shapes: {shapes or 'none'}",
            )
        with torch.no_grad():
            for name, value in mine.items():
                value.copy_(state[name])

    def restore(self) -> None:
        """Restore the old heads: the original tensors, layers and attributes. A second call does nothing."""
        self._changes.roll_back()
        forget_heads(self._plan.model, self._made)

    def reapply(self) -> None:
        """Put the new heads back after `restore`, with their trained values. A second call does nothing."""
        self._changes.replay()
        remember_heads(self._plan.model, self._made)


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
    num_classes: int,
    example_inputs: Any = None,
    *,
    head: str | Sequence[str] | None = None,
    new_head: NewHead | None = None,
    init: Init = "default",
    class_map: ClassMap | None = None,
    class_names: Sequence[str] | None = None,
    activation: str = "keep",
) -> Swap:
    """Replace the classification heads of `model` in place by new heads with `num_classes` classes.

    Heads with the class count of the main head are swapped together if they predict the same. Layers keep their class,
    geometry and names. New tensors have the device and dtype of the old ones. The swap is verified by an abstract run,
    and undone if any output does not have the new class count.

    Args:
        model: any module, on any device and in any dtype, including `meta`.
        num_classes: class count of the new head, of any integer type. 0 removes the head, so that the model returns
            features.
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

    Returns:
        The swap: the model with its new heads, and methods to restore the old ones.

    Raises:
        NoHeadError: the model has no head, and no slot for one.
        HeadSwapError: nothing was swapped; `reason` says why.
    """
    options = SwapOptions(num_classes, new_head, init, class_map, class_names, activation)
    plan = plan_swap(model, read_inputs(example_inputs), head)
    swap = _execute(plan, options)
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
    return _execute(plan, SwapOptions(num_classes), verify=verify)


def _execute(plan: SwapPlan, options: SwapOptions, *, verify: bool = True) -> Swap:
    inner, prefix, selected, result = plan.model, plan.prefix, plan.selected, plan.search_result
    if isinstance(options.new_head, nn.Module) and len(selected) > 1:
        raise HeadSwapError(
            "bad_argument",
            f"one new_head module cannot replace {len(selected)} heads: pass a function of (in_features, num_classes)",
        )
    count = options.num_classes
    changes = Transaction(inner)
    around = NumbersAround(inner, selected, count, [item for item in result.detected if item not in selected])
    slots = [item.slot.path for item in selected if item.slot is not None]
    class_names = ClassNames(empty_mappings(inner)) if slots else around.class_names()
    classes = resolve_class_map(class_names.indices(), options.class_map, count, selected[0].head.num_classes)
    names: list[str] = []
    notes = (*result.notes, *cautions(selected))
    try:
        for item in selected:
            made, uncertain = swap_one(inner, item, options, classes, changes)
            names += made
            notes = (*notes, *uncertain)
            if options.activation == "drop":
                drop_activation(inner, item, selected, changes)
        replace_references(inner, plan.tensor_references, changes)
        near = (*around.layers, *around.containers)
        metadata_notes = update_class_metadata(inner, around.counts, changes, near, around.shared, slots or None)
        class_names.update(count, options.class_names, classes, changes)
        around.follow_named(changes)
        rebuilt = follow_rebuilt(inner, around, changes) if count and not slots else Rebuilt()
        around.explain(rebuilt.explained)
        class_names.explain(rebuilt.explained)
        untied = untie(inner, changes)
        notes = (*notes, *metadata_notes, *untied, *rebuilt.notes)
        for item in rebuilt.unseen:
            made, uncertain = swap_one(inner, item, replace(options, new_head=None), classes, changes)
            names += made
            notes = (*notes, *uncertain)
        if rebuilt.unseen:
            replace_references(inner, plan.tensor_references, changes)
        selected = (*selected, *rebuilt.unseen)
        plan = replace(plan, selected=selected)
        rename = partial(class_names.update_doubtful, count, options.class_names, classes, changes)
        notes = (*notes, *verify_and_settle(plan, options, names, around, changes, rename, always=verify))
        if verify:
            check_untied(inner, plan.inputs, result.tensor_kinds, selected)
        notes = (*notes, *tie_notes(inner, selected, option_is_off=bool(untied)))
    except BaseException:
        changes.roll_back()
        raise
    new = [head_after_swap(inner, item, options) for item in selected if count]
    heads = tuple(with_prefix(head, prefix) for head in new)
    old = tuple(with_prefix(item.head, prefix) for item in selected)
    own = MadeHeads(
        tuple(dict.fromkeys(names)), tuple(head.path for head in new), plan.names_of_tensors(), plan.were_frozen
    )
    remember_heads(inner, own)
    return Swap(plan.outer, count, heads, old, notes, tuple(prefix + name for name in own.names), changes, plan, own)
