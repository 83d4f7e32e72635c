"""Run a model with values in another way than usual, compare the results, and tell whether a swap is to blame."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from pytest_headswap._text import format_bytes, join_first, single_line, truncate
from pytest_headswap.case.case import Case
from pytest_headswap.case.class_outputs import class_output_labels
from pytest_headswap.case.finding import CheckFailed, CheckSkipped, describe_error
from pytest_headswap.case.training import random_loss
from pytest_headswap.case.value_snapshot import named_tensors
from pytest_headswap.engine import AliasStandIns, Head, Inputs, flatten_outputs, substituted
from pytest_headswap.engine.pytorch import named_parameters, parameters, place_of_error

_MAX_MESSAGE = 400  # characters of an exception in a message
_MAX_COPIED_BYTES = 2**30  # of parameters, for checks that need a copy of the model

CheckOfHeads = Callable[[Sequence[Head]], str]
"""Checks the model of a case, which has these heads, and returns a note."""


def skip_without_values(case: Case) -> None:
    """Raise `CheckSkipped` if the model has no values."""
    if not case.numeric:
        why = case.abstract_reason or f"it was built for {case.evidence} evidence"
        raise CheckSkipped("no_values", f"this check computes with values, but the model has none: {why}")


def skip_if_large(case: Case, why: str) -> None:
    """Raise `CheckSkipped` if a copy of the model would take too much memory. `why` ends the message."""
    size = sum(value.nbytes for value in parameters(case.model))
    if size > _MAX_COPIED_BYTES:
        limit = format_bytes(_MAX_COPIED_BYTES)
        raise CheckSkipped("too_large", f"the model has {format_bytes(size)} of parameters, more than {limit}: {why}")


def check_and_blame(case: Case, check: CheckOfHeads, trouble: str) -> str:
    """Check the swapped model. If that fails, check the model as built: a failure there says nothing of the swap.

    Args:
        case: the case, with its head swapped.
        check: called with the heads that the model has at the time.
        trouble: completes "the model ...", such as `cannot be exported`.

    Returns:
        The note of `check`.

    Raises:
        CheckFailed: only the swapped model fails.
        CheckSkipped: `fails_before_swap`, both fail; or `check` skips.
    """
    skip_without_values(case)
    try:
        return check(case.swap.heads)
    except CheckFailed as failure:
        with case.original_head():
            try:
                check(case.swap.old_heads)
            except CheckFailed as before:
                message = f"the model {trouble} before the swap either: {before}"
                raise CheckSkipped("fails_before_swap", message) from failure
            except CheckSkipped:
                raise  # also the reason why the swapped model fails
            except Exception as other:
                raise failure from other  # the check says nothing about the model as built
        raise


def describe_exception(error: BaseException, case: Case) -> str:
    """Return the type and text of what caused an exception, on one line, with the last line of the model's own code."""
    line, layer = place_of_error(error, case.model)
    places = [place for place in (line, f"in {layer}" if layer else "") if place]
    while error.__cause__ is not None:
        error = error.__cause__
    text = truncate(single_line(describe_error(error)), _MAX_MESSAGE)
    return f"{text} ({', '.join(places)})" if places else text


@contextmanager
def undone(case: Case, heads: Iterable[Head]) -> Iterator[None]:
    """Undo afterwards whatever the block does to the model: attributes, modes, flags, gradients and values."""
    assert case.original_values is not None, "the model has values"
    own = {name for head in heads for name in head.tensors}
    saved = [(tensor, tensor.detach().clone()) for name, tensor in named_tensors(case.model) if name in own]
    try:
        with substituted(case.model, AliasStandIns()):
            yield
    finally:
        case.original_values.restore()
        for tensor, values in saved:
            tensor.data.copy_(values)


@contextmanager
def deployed(case: Case, heads: Iterable[Head]) -> Iterator[Inputs]:
    """Put the model into eval mode without gradients and warnings, and yield inputs. Undo all changes afterwards."""
    with undone(case, heads), case.seeded("forward"), torch.no_grad(), quiet_tools():
        case.model.eval()
        yield case.inputs.copied()


class LabelledOutputs(nn.Module):
    """A model whose output is a dictionary of its tensors by label: tools can take it apart, unlike a cache."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        return dict(flatten_outputs(self.model(*args, **kwargs)))


@contextmanager
def quiet_tools() -> Iterator[None]:
    """Suppress warnings of tools that the user has not called, and what the tools leave behind in the process."""
    limit = sys.getrecursionlimit()
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        stack.callback(sys.setrecursionlimit, limit)
        if find_spec("tqdm") is not None:  # its progress bars start a thread that stays
            from tqdm import tqdm

            stack.callback(setattr, tqdm, "monitor_interval", tqdm.monitor_interval)
            tqdm.monitor_interval = 0
        yield


def head_parameters(case: Case, heads: Iterable[Head]) -> dict[str, nn.Parameter]:
    """Return the parameters of the heads by name."""
    own = {name for head in heads for name in head.tensors}
    return {name: value for name, value in named_parameters(case.model) if name in own}


@dataclass(frozen=True)
class RealRun:
    """The tensors that a forward pass returned by label, and the gradients of a loss by the names of parameters."""

    outputs: Mapping[str, torch.Tensor]
    gradients: Mapping[str, torch.Tensor | None] = field(default_factory=dict)


def forward_and_backward(
    case: Case, heads: Sequence[Head], call: Callable[..., Any] | None = None, *, training: bool = False
) -> RealRun:
    """Run forward with gradients, and backward from a random loss over the class outputs. Use it in `undone`.

    Args:
        case: the case. All parameters of its model that have `requires_grad` are trained.
        heads: the heads that the model has.
        call: called in the place of the model, such as a compiled one.
        training: whether to run in train mode.
    """
    labels, inputs = class_output_labels(heads), case.inputs.copied()
    case.model.train(training)
    with case.seeded("forward"), torch.enable_grad():
        returned = (case.model if call is None else call)(*inputs.args, **inputs.kwargs)
        outputs = dict(flatten_outputs(returned))
    with case.seeded("loss"), torch.enable_grad():
        loss = random_loss([tensor for label, tensor in outputs.items() if label in labels])
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
    gradients = {name: value.grad for name, value in named_parameters(case.model) if value.requires_grad}
    return RealRun({label: tensor.detach() for label, tensor in outputs.items()}, gradients)


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference of two tensors, as a part of the largest element of `one`.

    It is infinite if they differ in shape, dtype, or the places of values that are not finite.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return math.inf
    if not (one.is_floating_point() or one.is_complex()):
        return 0.0 if torch.equal(one, other) else math.inf
    finite = one.isfinite()
    if not torch.equal(finite, other.isfinite()):
        return math.inf
    if not bool(finite.any()):
        return 0.0
    largest = float(one[finite].abs().max())
    difference = float((one[finite] - other[finite]).abs().max())
    return difference / largest if largest else (math.inf if difference else 0.0)


def rounding_of(dtype: torch.dtype) -> float:
    """Return the relative difference that two ways of computing the same may have in a dtype."""
    return math.sqrt(torch.finfo(dtype).eps) if dtype.is_floating_point or dtype.is_complex else 0.0


def differing(
    expected: Mapping[str, torch.Tensor | None], found: Mapping[str, torch.Tensor | None], tolerance: float = 0
) -> list[str]:
    """Describe the tensors that are missing, or differ by more than rounding and this part of the largest element."""
    words = []
    for name, one in expected.items():
        other = found.get(name)
        if one is None or other is None:
            words += [] if one is other else [f"{name} is missing" if other is None else f"{name} is new"]
        elif one.shape != other.shape or one.dtype != other.dtype:
            words.append(f"{name} is {_form(other)}, not {_form(one)}")
        elif (difference := relative_difference(one, other)) > max(rounding_of(one.dtype), tolerance):
            words.append(f"{name} by {difference:.1g} of its largest element")
    return words


def _form(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} in {tensor.dtype}"


def fail_if_different(expected: RealRun, found: RealRun, what: str, tolerance: float = 0) -> None:
    """Raise `CheckFailed` if outputs or gradients differ by more than rounding. `what` begins the message."""
    if words := differing(expected.outputs, found.outputs, tolerance):
        raise CheckFailed(f"{what} returns other outputs: {join_first(words)}")
    if words := differing(expected.gradients, found.gradients, tolerance):
        raise CheckFailed(f"{what} gives other gradients: {join_first(words)}")
