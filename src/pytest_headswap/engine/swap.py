"""Swap the head of a model: a transaction that is verified, and put back when it does not hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from pytest_headswap.engine.abstract import abstract_run
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.find import Found, Search, search
from pytest_headswap.engine.heads import Head, Heads
from pytest_headswap.engine.inputs import Inputs, as_inputs
from pytest_headswap.engine.outputs import flatten_outputs
from pytest_headswap.engine.resize import Transaction, resize_heads


@dataclass
class Swap:
    """A model with its new heads, and the way back.

    Attributes:
        model: the model that was passed in, changed in place.
        num_classes: the class count of the new heads.
        heads: the heads as they are now.
        old_heads: the heads as they were.
        notes: what a user should know beside the heads.
    """

    model: nn.Module
    num_classes: int
    heads: tuple[Head, ...]
    old_heads: tuple[Head, ...]
    notes: tuple[str, ...]
    _fresh: dict[str, nn.Parameter]
    _changes: Transaction

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the new heads, for the optimizer."""
        return iter(self._fresh.values())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of the new heads with their names in the model."""
        return iter(self._fresh.items())

    def restore(self) -> None:
        """Put the old heads back: the very tensors, layers and attributes that were there before."""
        self._changes.roll_back()


def find_heads(model: nn.Module, example_inputs: Any = None) -> Heads:
    """Find the classification heads of `model` without changing anything.

    Args:
        model: any module, on any device and in any dtype, also on `meta`.
        example_inputs: a tensor, a tuple of positional inputs or a mapping of keyword inputs; only
            shapes and dtypes matter. With batch norm in the model, a batch of at least 2.

    Raises:
        NoHeadError: the model has no head, nor a place for one.
        HeadSwapError: the model cannot be run, or its outputs cannot be followed.
    """
    return search(_checked_model(model), as_inputs(example_inputs)).heads()


def swap_head(model: nn.Module, num_classes: int, example_inputs: Any = None, *, head: str | None = None) -> Swap:
    """Replace the classification heads of `model`, in place, by new ones for `num_classes` classes.

    All heads that share the class count of the main one are swapped together. Layers keep their class,
    geometry and names; new tensors have the device and dtype of the old. Afterwards the model is run
    abstractly once more, and put back if any output does not follow.

    Args:
        model: any module, on any device and in any dtype, also on `meta`.
        num_classes: class count of the new head, at least 1.
        example_inputs: as for `find_heads`.
        head: path of the one head to swap, for models whose heads mean different things.

    Raises:
        NoHeadError: the model has no head, nor a place for one.
        HeadSwapError: nothing was swapped; `reason` says why.
    """
    _checked_model(model)
    _check_num_classes(num_classes)
    inputs = as_inputs(example_inputs)
    result = search(model, inputs)
    chosen = _choose(result, head)
    changes = Transaction()
    try:
        fresh = resize_heads(model, chosen, num_classes, changes)
        _verify(model, inputs, result, chosen, num_classes)
    except BaseException:
        changes.roll_back()
        raise
    heads = tuple(_after(item.head, num_classes, fresh) for item in chosen)
    return Swap(model, num_classes, heads, tuple(item.head for item in chosen), result.notes, fresh, changes)


def _checked_model(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise HeadSwapError("not_a_module", f"model must be a torch.nn.Module, not {type(model).__name__}")
    return model


def _check_num_classes(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise HeadSwapError("bad_num_classes", f"num_classes must be a whole number of at least 1, not {value!r}")


def _choose(result: Search, path: str | None) -> Sequence[Found]:
    known = {name: item for item in result.found for name in (item.head.path, *item.head.aliases)}
    listing = ", ".join(f"{item.head.path!r} ({item.head.num_classes} classes)" for item in result.found)
    if path is not None:
        if path not in known:
            raise HeadSwapError("unknown_head", f"no head at {path!r}; this model has {listing}")
        return [known[path]]
    counts = {item.head.num_classes for item in result.found}
    if len(counts) == 1:
        return result.found
    chosen = [item for item in result.found if item.head.num_classes == result.declared]
    if not chosen:
        raise HeadSwapError(
            "ambiguous", f"several heads with different class counts: {listing}. Pass head=PATH for one"
        )
    return chosen


def _verify(model: nn.Module, inputs: Inputs, result: Search, chosen: Sequence[Found], num_classes: int) -> None:
    """Run the model again in each mode that was probed: class dimensions must follow, all others stay."""
    outputs = {(o.training, o.label, o.dim): o for item in chosen for o in item.outputs}
    for training, before in result.shapes.items():
        try:
            run = abstract_run(model, inputs, training=training, ways=(result.ways[training],))
        except HeadSwapError as error:
            raise HeadSwapError("verification_failed", f"with the new head {error}") from error
        after = {label: tuple(t.shape) for label, t in flatten_outputs(run.outputs) if t.is_floating_point()}
        wanted = {
            label: tuple(num_classes if (training, label, dim) in outputs else size for dim, size in enumerate(shape))
            for label, shape in before.items()
        }
        for label, shape in wanted.items():
            if after.get(label) != shape:
                mode = "train" if training else "eval"
                raise HeadSwapError(
                    "verification_failed",
                    f"in {mode} mode {label} should have become {shape} and is {after.get(label)}: the model is as it "
                    "was. Please report this architecture",
                )


def _after(head: Head, num_classes: int, fresh: dict[str, nn.Parameter]) -> Head:
    if head.kind != "identity":
        return replace(head, num_classes=num_classes)
    names = tuple(name for name in fresh if name.rpartition(".")[0] == head.path)
    weight = fresh[f"{head.path}.weight"]
    kind = "linear" if weight.dim() == 2 else f"conv{weight.dim() - 2}d"
    return replace(head, num_classes=num_classes, kind=kind, tensors=names)
