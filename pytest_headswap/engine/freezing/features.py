"""Compute the features that flow into the heads once, so that heads can be trained without the backbone."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from pytest_headswap.engine.errors import HeadSwapError, HeadSwapWarning
from pytest_headswap.engine.freezing.awake import in_eval_mode, noted_names
from pytest_headswap.engine.freezing.freeze import freeze_backbone
from pytest_headswap.engine.freezing.frozen_backbone import FrozenBackbone
from pytest_headswap.engine.freezing.head_calls import record_head_calls
from pytest_headswap.engine.freezing.trainable import trainable_heads
from pytest_headswap.engine.pytorch.inputs import Inputs, read_inputs
from pytest_headswap.engine.pytorch.modules import parameters
from pytest_headswap.engine.pytorch.saved_state import ModuleState
from pytest_headswap.engine.pytorch.wrappers import unwrap
from pytest_headswap.engine.swapping.swap import Swap


class Features(NamedTuple):
    """What flows into the heads of a model.

    Attributes:
        features: the features, with one row for each sample of all batches. If several heads train, a dictionary of
            them by the path of the head.
        targets: the targets of all batches, or None if the batches had none.
    """

    features: Any
    targets: torch.Tensor | None


def extract_features(swap: Swap | nn.Module, batches: Iterable[Any], *, device: torch.device | str = "cpu") -> Features:
    """Compute what flows into the heads, once for each batch, to train heads on it without the backbone.

    Training the head on these features is the same as training a model with a frozen backbone: the features are those
    of `freeze_backbone`, which depend neither on chance nor on the rest of a batch. The model is left as it was.

    Args:
        swap: the result of `swap_head`, or a model that already has the right head.
        batches: the batches, such as a `DataLoader` without shuffling or a list. Each is given as for `find_heads`: a
            tensor, a tuple of positional inputs or a mapping of keyword inputs. Or it is a pair of these and a tensor
            of targets, as a `DataLoader` yields. Tensors are moved to the device of the model.
        device: where the features are stored.

    Returns:
        The features, of shape (samples, ...) as the head module receives them, and the targets.

    Raises:
        NoHeadError: `swap` is a model without a head.
        HeadSwapError: `no_features`: a head does not receive one tensor with a row for each sample. `not_freezable`:
            the features depend on chance or the batch, or on parameters that stay trainable. `bad_argument`:
            `batches` is empty or a single batch, or the model has no head. `forward_failed`, `bad_inputs`: as for
            `find_heads`.
    """
    heads = trainable_heads(swap, None)
    model, prefix = unwrap(heads.model)
    _check_ready(model, heads.paths)
    paths = [path.removeprefix(prefix) for path in heads.paths]
    if any(parameter.is_meta for parameter in parameters(model)):
        raise HeadSwapError("bad_argument", "the model is on the meta device, which has no values: load it first")
    iterator = _read(batches, len(heads.inputs.args) + len(heads.inputs.kwargs))
    gradients = [(parameter, parameter.grad) for parameter in parameters(model)]
    state = ModuleState(heads.model)
    frozen = _freeze(swap, heads.inputs)
    try:
        found, targets = _run(model, paths, iterator, torch.device(device))
    finally:
        frozen.unfreeze()
        state.restore()
        for parameter, gradient in gradients:
            parameter.grad = gradient
    features = {prefix + path: _joined(parts, path) for path, parts in found.items()}
    only = next(iter(features.values())) if len(features) == 1 else features
    return Features(only, torch.cat(targets) if targets else None)


def _check_ready(model: nn.Module, paths: Sequence[str]) -> None:
    if not paths:
        raise HeadSwapError("bad_argument", "the heads were removed, so the model itself returns features")
    if noted_names(model)[0]:
        raise HeadSwapError(
            "not_freezable",
            "a stage of the backbone is unfrozen, so stored features would be out of date after one step: call "
            "refreeze() first, or train the whole model",
        )


def _freeze(swap: Swap | nn.Module, inputs: Inputs) -> FrozenBackbone:
    """Freeze the model and warn about what was not verified.

    Raises:
        HeadSwapError: as for `freeze_backbone`; `not_freezable` too if parameters of the backbone stay trainable.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadSwapWarning)
        frozen = freeze_backbone(swap, inputs)
    if frozen._kept.names:
        frozen.unfreeze()
        raise HeadSwapError(
            "not_freezable",
            f"the features depend on parameters that stay trainable, such as {min(frozen._kept.names)}: call "
            "requires_grad_(False) on the model first, or train the whole model",
        )
    for note in frozen.notes:
        if "verified" in note:
            warnings.warn(note, HeadSwapWarning, stacklevel=4)
    return frozen


def _read(batches: Any, count: int) -> Iterable[tuple[Inputs, torch.Tensor | None]]:
    """Yield the inputs and targets of each batch, for a model with `count` inputs."""
    if isinstance(batches, (torch.Tensor, Mapping)) or not isinstance(batches, Iterable):
        raise HeadSwapError(
            "bad_argument",
            f"batches must be an iterable of batches, not {type(batches).__name__}: pass a DataLoader or a list of "
            "batches",
        )
    for batch in batches:
        given, targets = batch, None
        if isinstance(batch, (tuple, list)) and batch and isinstance(batch[-1], torch.Tensor):
            is_pair = len(batch) == 2 and (count == 1 or isinstance(batch[0], (Mapping, tuple, list)))
            if is_pair or (count > 1 and len(batch) == count + 1):
                given, targets = batch[0] if is_pair else batch[:-1], batch[-1]
        inputs = read_inputs(given)
        if inputs is None:
            raise HeadSwapError("bad_inputs", "a batch is None")
        yield inputs, targets


def _run(
    model: nn.Module,
    paths: Sequence[str],
    batches: Iterable[tuple[Inputs, torch.Tensor | None]],
    device: torch.device,
) -> tuple[dict[str, list[torch.Tensor]], list[torch.Tensor]]:
    """Run all batches in eval mode, or in train mode if a head runs only there."""
    found: dict[str, list[torch.Tensor]] = {path: [] for path in paths}
    targets: list[torch.Tensor] = []
    own = next((value.device for value in parameters(model)), torch.device("cpu"))
    heads = [model.get_submodule(path) for path in paths]
    training = False
    for inputs, target in batches:
        calls = _calls(model, heads, paths, inputs, own, training)
        if not training and calls.keys() < set(paths):
            training = True
            calls = _calls(model, heads, paths, inputs, own, training)
        samples = next(tensor.shape[0] for tensor in inputs.tensors() if tensor.dim())
        for path in paths:
            found[path].append(_checked(calls.get(path, []), path, samples).to(device))
        if target is not None:
            targets.append(target.detach().to(device))
    counts = {len(targets), *map(len, found.values())}
    if counts == {0}:
        raise HeadSwapError("bad_argument", "there are no batches")
    if targets and len(counts) > 1:
        raise HeadSwapError("bad_argument", "some batches have targets and others have none")
    return found, targets


def _calls(
    model: nn.Module,
    heads: Sequence[nn.Module],
    paths: Sequence[str],
    inputs: Inputs,
    device: torch.device,
    training: bool,
) -> dict[str, list[list[torch.Tensor]]]:
    """Run the model once. Heads stay in eval mode, so that their buffers do not change."""
    moved = inputs.map_tensors(lambda tensor: tensor.to(device))
    model.train(training)
    with torch.no_grad(), in_eval_mode(heads), record_head_calls(model, paths) as calls:
        try:
            model(*moved.args, **moved.kwargs)
        except Exception as error:
            raise HeadSwapError(
                "forward_failed",
                f"forward raised {type(error).__name__} on a batch: {error}. Pass batches that the model accepts",
            ) from error
    return calls


def _checked(calls: Sequence[Sequence[torch.Tensor]], path: str, samples: int) -> torch.Tensor:
    """Return the features of a batch.

    Raises:
        HeadSwapError: `no_features`.
    """
    problem = ""
    if not path:
        problem = "the head is part of the forward of the model itself"
    elif len(calls) != 1:
        problem = f"forward calls {path} {len(calls)} times" if calls else f"forward does not call {path} as a module"
    elif len(calls[0]) != 1:
        problem = f"{path} receives {len(calls[0]) or 'no'} tensors of features"
    elif calls[0][0].shape[:1] != (samples,):
        problem = f"{path} receives features of shape {tuple(calls[0][0].shape)} for {samples} samples"
    if problem:
        raise HeadSwapError(
            "no_features",
            f"{problem}, so there is no tensor of features to store: train the model with freeze_backbone",
        )
    return calls[0][0]


def _joined(parts: Sequence[torch.Tensor], path: str) -> torch.Tensor:
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = ", ".join(sorted({str(tuple(part.shape[1:])) for part in parts})[:3])
        raise HeadSwapError(
            "no_features",
            f"the features before {path} differ in shape between batches ({shapes}): pad the inputs to one length",
        )
    return torch.cat(list(parts))
