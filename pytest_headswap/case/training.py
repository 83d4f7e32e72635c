"""Train a new head briefly with the rest frozen, record the effect on the model, and undo it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pytest_headswap.case.calls_after_freeze import effects_of_calls
from pytest_headswap.case.class_outputs import class_output_labels
from pytest_headswap.case.head_inputs import HeadInputs, Sample, feature_differences, record_head_inputs, sample_of
from pytest_headswap.case.sample_inputs import stable_seed, with_first_sample_last
from pytest_headswap.case.tensor_names import swapped_names
from pytest_headswap.case.value_snapshot import ValueSnapshot, bitwise_equal
from pytest_headswap.engine import (
    UNVERIFIED_SAMPLES,
    AliasStandIns,
    FrozenBackbone,
    HeadSwapError,
    Inputs,
    Swap,
    WrittenState,
    flatten_outputs,
    substituted,
)
from pytest_headswap.engine.pytorch import accelerators, gradient_leaves, parameters

_LEARNING_RATE, _MOMENTUM, _WEIGHT_DECAY = 0.1, 0.9, 0.01


@dataclass(frozen=True)
class EvalForward:
    """A real forward pass in eval mode: the outputs, and the inputs of the heads."""

    outputs: Any
    head_inputs: HeadInputs


@dataclass
class TrainingRecord:
    """Observations from training steps on batches that share a sample: the last of the first, the first of the others.

    There is one step if the head inputs for that sample match the evaluation, which uses the second batch, and forward
    leaves no state behind. There is a third step if the state changes in the second one too.

    Attributes:
        freeze_error: error of the engine if it could not freeze the backbone; everything else is empty then.
        gradients: gradient of each new parameter after the first backward pass, or None.
        foreign_gradients: parameters outside of the head that had a gradient at that point.
        lost_gradients: parameters of a head that had a gradient in the first step but not in a later one, and the step.
        non_finite: labels of outputs with infinite or NaN elements, and the step.
        unlike_before: class outputs whose shape changed in a later step, or what forward raised in it.
        changed: tensors outside of the head that are not bit-identical to before.
        in_train_mode: modules of the backbone that `train()` put into train mode.
        moved: statistics of the backbone that other calls of torch reset or wake, and the call.
        updated: parameters of the head that changed.
        batch_dependent: heads whose input for the shared sample depended on the rest of the batch, and by how much.
        notes: what was not verified.
    """

    freeze_error: HeadSwapError | None = None
    gradients: dict[str, torch.Tensor | None] = field(default_factory=dict)
    foreign_gradients: list[str] = field(default_factory=list)
    lost_gradients: list[str] = field(default_factory=list)
    non_finite: list[str] = field(default_factory=list)
    unlike_before: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    in_train_mode: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    updated: set[str] = field(default_factory=set)
    batch_dependent: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def train(
    swap: Swap,
    inputs: Inputs,
    values: ValueSnapshot,
    *,
    freeze: Callable[[], AbstractContextManager[FrozenBackbone]],
    train_mode: bool,
    reference: HeadInputs,
    rows_are_samples: bool,
) -> TrainingRecord:
    """Freeze all but the heads, take up to three SGD steps with momentum and weight decay, and record the effects.

    Args:
        swap: the model with its new heads.
        inputs: arguments of forward.
        values: values of the model before the training.
        freeze: returns a context manager that freezes the backbone.
        train_mode: whether to train in train mode; False if the model only runs in eval mode.
        reference: input of each head in an evaluation; empty if unknown.
        rows_are_samples: whether the rows of the inputs are samples. Otherwise each step has the same batch.

    Returns:
        The observations. The model is restored.
    """
    record = TrainingRecord()
    first = with_first_sample_last(inputs, stable_seed("companions")) if rows_are_samples else inputs
    batches = (first, inputs, inputs)
    head = {name: tensor.clone() for name, tensor in swap.state_dict().items()}
    gradients = [(parameter, parameter.grad) for parameter in parameters(swap.model)]
    _plant_stale_gradients(swap)
    try:
        with freeze() as frozen:
            record.notes += frozen.notes
            if not rows_are_samples:
                record.notes.append("each step had the same batch: the first dimension of the inputs counts no samples")
            stale = {name: value.grad for name, value in swap.model.named_parameters() if value.grad is not None}
            record.foreign_gradients = list(stale)
            record.in_train_mode, record.moved = effects_of_calls(swap.model, swap)
            with substituted(swap.model, AliasStandIns()):
                for name, left in stale.items():
                    swap.model.get_parameter(name).grad = left
                try:
                    _take_steps(swap.model, swap, batches, train_mode, record, reference)
                    now = swap.state_dict()
                    record.updated = {name for name, tensor in head.items() if not bitwise_equal(tensor, now[name])}
                finally:
                    record.changed = values.restore_and_list_changes(without=swapped_names(swap))
    except HeadSwapError as error:
        record.freeze_error = error
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        swap.load_state_dict(head)
    return record


def _plant_stale_gradients(swap: Swap) -> None:
    """Give every parameter outside of the heads a zero gradient, like a leftover from earlier training.

    An optimizer would then apply weight decay to a frozen weight.
    """
    new = {id(parameter) for parameter in swap.parameters()}
    for parameter in parameters(swap.model):
        if id(parameter) not in new and parameter.is_floating_point():
            parameter.grad = torch.zeros((), dtype=parameter.dtype, device=parameter.device).expand_as(parameter)


def _take_steps(
    model: nn.Module,
    swap: Swap,
    batches: Sequence[Inputs],
    training: bool,
    record: TrainingRecord,
    reference: HeadInputs,
) -> None:
    """Train on the first batch and on further ones, until `TrainingRecord` needs no other step."""
    optimizer = torch.optim.SGD(parameters(model), lr=_LEARNING_RATE, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY)
    known = sample_of(reference, batches[-1])
    features: list[Sample] = []
    shapes: dict[str, torch.Size] = {}
    for step, batch in enumerate(batches):
        state = WrittenState(model)
        model.train(training)
        try:
            with record_head_inputs(model, swap) as head_inputs, torch.enable_grad():
                outputs = _forward_and_backward(model, swap, batch, record, step)
                accelerators.synchronize(_device_of(model), outputs.values())
        except Exception as error:
            if not step:
                raise
            record.unlike_before.append(f"forward raises {type(error).__name__} in step {step + 1}: {error}")
            return
        features.append(sample_of(head_inputs, batch, last=step == 0 and batch is not batches[-1]))
        record.non_finite += [
            f"{label} in step {step + 1}" for label, tensor in outputs.items() if not bool(tensor.isfinite().all())
        ]
        now = {label: outputs[label].shape for label in class_output_labels(swap.heads) & outputs.keys()}
        record.unlike_before += [
            f"{label} has shape {tuple(now[label])} in step {step + 1}" if label in now else f"{label} is missing"
            for label, shape in shapes.items()
            if now.get(label) != shape
        ]
        shapes = now
        optimizer.step()
        record.batch_dependent = record.batch_dependent or feature_differences(features[0], features[-1])
        is_known = features[0] and features[0].keys() <= known.keys() and not feature_differences(features[0], known)
        if (step or is_known) and not state.has_changed():
            break
    if not features[0]:
        record.notes.append("the features were not compared: no head is a separate module")
    elif batches[0] is not batches[-1]:
        record.notes = [note for note in record.notes if not note.endswith(UNVERIFIED_SAMPLES)]


def _device_of(model: nn.Module) -> torch.device:
    return parameters(model)[0].device


def _forward_and_backward(
    model: nn.Module, swap: Swap, batch: Inputs, record: TrainingRecord, step: int
) -> dict[str, torch.Tensor]:
    """Return the outputs by label, and record which parameters have a gradient."""
    new, labels, batch = dict(swap.named_parameters()), class_output_labels(swap.heads), batch.copied()
    for parameter in new.values():
        parameter.grad = None
    outputs = dict(flatten_outputs(model(*batch.args, **batch.kwargs)))
    loss = random_loss([tensor for label, tensor in outputs.items() if label in labels])
    if loss is not None:
        registered = {id(parameter) for parameter in parameters(model)}
        unregistered = [(leaf, leaf.grad) for leaf in gradient_leaves([loss]) if id(leaf) not in registered]
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        for leaf, gradient in unregistered:
            leaf.grad = gradient
    foreign = [name for name, value in model.named_parameters() if name not in new and value.grad is not None]
    record.foreign_gradients += [name for name in foreign if name not in record.foreign_gradients]
    gradients = {name: parameter.grad for name, parameter in new.items()}
    if step == 0:
        record.gradients = {n: g.clone() if g is not None else None for n, g in gradients.items()}
    had = (name for name, gradient in record.gradients.items() if gradient is not None)
    record.lost_gradients += [f"{name} in step {step + 1}" for name in had if gradients[name] is None]
    return outputs


def random_loss(outputs: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Return a loss that weights each element randomly, because the sum of a softmax has no gradient."""
    terms = [(tensor.float() * torch.randn_like(tensor.float())).mean() for tensor in outputs if tensor.requires_grad]
    return torch.stack(terms).sum() if terms else None
