"""Verify a swap: the outputs must have the new class count, and gradients must reach the new head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from pytest_headswap.engine.abstract.run import abstract_run, first_line
from pytest_headswap.engine.abstract.stand_ins import TENSOR_KINDS, StandIns
from pytest_headswap.engine.dataflow.recorder import record
from pytest_headswap.engine.detection.describe import DetectedHead
from pytest_headswap.engine.detection.search_result import SearchResult
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import gradient_leaves
from pytest_headswap.engine.pytorch.modules import freeze_all_but, get_registered_tensor, is_registered, owner_path
from pytest_headswap.engine.pytorch.outputs import flatten_outputs
from pytest_headswap.engine.swapping.layer_check import Calls, faulty_layers, recorded_calls
from pytest_headswap.engine.swapping.options import HeadSwap
from pytest_headswap.engine.swapping.transaction import Transaction
from pytest_headswap.head import CHOSEN


class LayerFault(HeadSwapError):
    """A new layer does not work. The error says which, and why."""


def verify_swap(
    model: nn.Module,
    inputs: Inputs,
    original: SearchResult,
    swaps: Sequence[HeadSwap],
    names: Sequence[str],
    changes: Transaction,
) -> list[str]:
    """Compare the output shapes with those before the swap, in each mode that was probed, and run the new layers.

    Class dimensions must have the new class count, or the feature width if that is 0. Every other dimension
    must be unchanged. A fault of a new layer counts only if the old one does not have it.

    Returns:
        Notes for the user, such as new parameters that no gradient reaches.

    Raises:
        HeadSwapError: `verification_failed`.
    """
    selected = [swap.item for swap in swaps]
    sizes = {
        (output.training, output.label, output.dim): swap.new_count * _values_per_class(swap.item, output.size)
        or swap.item.head.in_features
        for swap in swaps
        for output in swap.item.outputs
        if not output.is_squeezed
    }
    squeezed = {
        (output.training, output.label): (output.dim, swap.new_count or swap.item.head.in_features)
        for swap in swaps
        for output in swap.item.outputs
        if output.is_squeezed and swap.new_count != 1
    }
    resized = {(n, dim) for item in selected for spec in item.tensors for n in spec.names for dim in (spec.dim, None)}
    derived = {place for place, tensors in original.derived.items() if not resized.isdisjoint(tensors)}
    chosen = {output.label for item in selected for output in item.outputs if output.label.startswith(CHOSEN)}
    unchanged: list[str] = []
    reached: set[str] = set()
    calls: Calls = {}
    for training, shapes in original.shapes.items():
        outputs, in_mode = _run(model, inputs, training, original.tensor_kinds[training], names, calls)
        reached |= in_mode
        for label, shape in shapes.items():
            expected = tuple(sizes.get((training, label, dim), size) for dim, size in enumerate(shape))
            if (training, label) in squeezed:
                dim, size = squeezed[training, label]
                expected = (*expected[:dim], size, *expected[dim:])
            shape = outputs.get(label, ())
            if len(shape) == len(expected):
                dims = [dim for dim in range(len(shape)) if (training, label, dim) in derived]
                if f"{CHOSEN}{label}" not in chosen:  # such as the five largest
                    same = [dim for dim in dims if shape[dim] == expected[dim]]
                    unchanged += [f"{label}, dimension {dim} ({shape[dim]})" for dim in same]
                expected = tuple(shape[dim] if dim in dims else size for dim, size in enumerate(expected))
            if shape != expected:
                raise HeadSwapError(
                    "verification_failed",
                    f"in {'train' if training else 'eval'} mode, {label} should have shape {expected} but has "
                    f"{outputs.get(label, 'no tensor')}",
                )
    _verify_choices(model, inputs, original, swaps)
    faults = faulty_layers(model, calls, names)
    if faults:
        for path in _old_faults(model, inputs, original, names, changes):
            faults.pop(path, None)
    for fault in faults.values():
        raise LayerFault(
            "verification_failed",
            f"{fault}. Choose a class count that the layer accepts, or pass new_head. The model was restored",
        )
    unseen = {name for item in selected if not item.outputs for name in item.head.tensors}
    parameters = [
        name for name in names if name not in unseen and isinstance(get_registered_tensor(model, name), nn.Parameter)
    ]
    unreachable = [name for name in parameters if name not in reached]
    notes = [_unreachable(unreachable)] if unreachable else []
    if unchanged and any(swap.new_count not in (0, swap.old_count) for swap in swaps):
        notes.append(
            f"{'; '.join(dict.fromkeys(unchanged))}: the size did not change, because forward selects from the classes "
            "or contains their old count. Adapt forward, unless this output does not depend on the class count"
        )
    return notes


def _old_faults(
    model: nn.Module, inputs: Inputs, original: SearchResult, names: Sequence[str], changes: Transaction
) -> dict[str, str]:
    """Return the faults that the layers have without the swap, such as a dtype without a kernel on this device."""
    changes.roll_back()
    try:
        calls: Calls = {}
        old = [name for name in names if is_registered(model, name)]
        for training, tensor_kind in original.tensor_kinds.items():
            _run(model, inputs, training, tensor_kind, old, calls)
        return faulty_layers(model, calls, old)
    finally:
        changes.replay()


def _values_per_class(item: DetectedHead, size: int) -> int:
    """Return how many entries of an output dimension belong to one class, such as the coordinates of its box."""
    return size // item.head.num_classes if item.head.num_classes else 1


def _verify_choices(model: nn.Module, inputs: Inputs, original: SearchResult, swaps: Sequence[HeadSwap]) -> None:
    """Check the dimensions that no output shows, because the model returns only what it chose from them."""
    hidden = {
        output: swap.new_count
        for swap in swaps
        for output in swap.item.outputs
        if output.label not in original.shapes[output.training]
    }
    for training in sorted({output.training for output in hidden}):
        kinds = TENSOR_KINDS[TENSOR_KINDS.index(original.tensor_kinds[training]) :]
        graph = record(model, inputs, training=training, tensor_kinds=kinds)
        shapes = {(choice.label, choice.dim): choice.value.shape for choice in graph.choices}
        graph.clear()
        for output, num_classes in hidden.items():
            shape = shapes.get((output.label.removeprefix(CHOSEN), output.dim), ())
            if output.training == training and (len(shape) <= output.dim or shape[output.dim] != num_classes):
                raise HeadSwapError(
                    "verification_failed",
                    f"the tensor behind {output.label.removeprefix(CHOSEN)} should have {num_classes} classes but has "
                    f"shape {shape}",
                )


def _run(
    model: nn.Module, inputs: Inputs, training: bool, tensor_kind: str, names: Sequence[str], calls: Calls
) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Run the model with everything but the new parameters frozen, and record the calls of the new layers.

    Returns:
        The shapes of the outputs by label, and the names of the new parameters that a gradient reaches.
    """

    @contextmanager
    def frozen(_: StandIns) -> Iterator[None]:
        freeze_all_but(model, (get_registered_tensor(model, name) for name in names))
        with recorded_calls(model, map(owner_path, names), training, calls), torch.enable_grad():
            yield

    try:
        run = abstract_run(
            model,
            inputs,
            training=training,
            tensor_kinds=TENSOR_KINDS[TENSOR_KINDS.index(tensor_kind) :],
            context=frozen,
        )
    except HeadSwapError as error:
        cause: BaseException = error.__cause__ or error
        mode = "train" if training else "eval"
        raise HeadSwapError(
            "verification_failed",
            f"in {mode} mode, the model does not run with the new head: {type(cause).__name__}: {first_line(cause)}",
        ) from cause
    outputs = {label: tensor for label, tensor in flatten_outputs(run.outputs) if tensor.is_floating_point()}
    leaves = {id(leaf) for leaf in gradient_leaves(list(outputs.values()))}
    reached = {name for name in names if id(run.parameters.get(name)) in leaves}
    return {label: tuple(tensor.shape) for label, tensor in outputs.items()}, reached


def _unreachable(names: Sequence[str]) -> str:
    return (
        f"with the backbone frozen, no gradient reaches {', '.join(names)}, so training would have no effect. If "
        "forward checkpoints the part with the head, pass use_reentrant=False to torch.utils.checkpoint. Otherwise "
        "look for no_grad or detach after the head"
    )
