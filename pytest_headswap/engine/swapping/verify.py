"""Verify a swap: the outputs must have the new class count, and gradients must reach the new head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from pytest_headswap.engine.abstract.run import abstract_run, first_line
from pytest_headswap.engine.abstract.stand_ins import TENSOR_KINDS, StandIns
from pytest_headswap.engine.detection.describe import DetectedHead
from pytest_headswap.engine.detection.search import SearchResult
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import gradient_leaves
from pytest_headswap.engine.pytorch.modules import freeze_all_but, get_registered_tensor
from pytest_headswap.engine.pytorch.outputs import flatten_outputs


def verify_swap(
    model: nn.Module,
    inputs: Inputs,
    original: SearchResult,
    selected: Sequence[DetectedHead],
    num_classes: int,
    names: Sequence[str],
) -> list[str]:
    """Compare the output shapes with those before the swap, in each mode that was probed.

    Class dimensions must have the new class count, or the feature width if `num_classes` is 0. Every other dimension
    must be unchanged.

    Returns:
        Notes for the user, such as new parameters that no gradient reaches.

    Raises:
        HeadSwapError: `verification_failed`.
    """
    sizes = {
        (output.training, output.label, output.dim): num_classes or item.head.in_features
        for item in selected
        for output in item.outputs
    }
    reached: set[str] = set()
    for training, shapes in original.shapes.items():
        outputs, in_mode = _run(model, inputs, training, original.tensor_kinds[training], names)
        reached |= in_mode
        for label, shape in shapes.items():
            expected = tuple(sizes.get((training, label, dim), size) for dim, size in enumerate(shape))
            if outputs.get(label) != expected:
                raise HeadSwapError(
                    "verification_failed",
                    f"in {'train' if training else 'eval'} mode, {label} should have shape {expected} but has "
                    f"{outputs.get(label)}. The model was restored. Please report this architecture",
                )
    parameters = [name for name in names if isinstance(get_registered_tensor(model, name), nn.Parameter)]
    unreachable = [name for name in parameters if name not in reached]
    return [_unreachable(unreachable)] if unreachable else []


def _run(
    model: nn.Module, inputs: Inputs, training: bool, tensor_kind: str, names: Sequence[str]
) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Run the model with everything but the new parameters frozen.

    Returns:
        The shapes of the outputs by label, and the names of the new parameters that a gradient reaches.
    """

    @contextmanager
    def frozen(_: StandIns) -> Iterator[None]:
        freeze_all_but(model, (get_registered_tensor(model, name) for name in names))
        with torch.enable_grad():
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
        cause = error.__cause__ or error
        raise HeadSwapError(
            "verification_failed",
            f"the model ran on these inputs before the swap, but with the new head it raises {type(cause).__name__}: "
            f"{first_line(cause)}. If forward contains the old class count, make it follow the head",
        ) from error
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
