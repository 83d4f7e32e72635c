"""Infer inputs for a model: try candidates one by one, on shapes alone if possible, until the model runs."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from pytest_headswap.engine.abstract.candidate_inputs import candidate_inputs, required_arguments
from pytest_headswap.engine.abstract.layer_shapes import IMAGE_SIZES
from pytest_headswap.engine.abstract.run import abstract_run, first_line, may_depend_on_inputs
from pytest_headswap.engine.abstract.stand_ins import FAKE, META, REAL, StandIns
from pytest_headswap.engine.abstract.trial_limits import TrialLimitError, TrialLimits, max_trial_bytes
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import is_fake_tensor_limitation

_MAX_SECONDS = 60.0  # for all trials of a model
_MAX_LARGER = 5  # larger images to try if train mode fails
_MAX_IN_EVAL_MODE = 8  # eval-mode candidates to try before giving up on train mode
_MAX_WITH_VALUES = 40  # candidates to try with values
_MAX_UNLIKELY = 3  # candidates that are tried with values although their shapes seem to be wrong
_MAX_SAME = 3  # trials with the same error before values are tried
_MAX_NAMED = 12  # shapes named in the error


def infer_inputs(model: nn.Module) -> Inputs:
    """Return inputs on which the model runs in eval mode, and if possible also in train mode.

    They have the dtype of the model. They are meta tensors, unless they are example inputs that the model holds.

    Raises:
        HeadSwapError: `no_inputs` if none could be inferred. Any other code means that the model cannot run on any
            input.
    """
    return _Search(model).run()


class _Search:
    """The trials of a model, and what they showed."""

    def __init__(self, model: nn.Module) -> None:
        parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
        self.model = model
        self.dtype = parameter.dtype if parameter is not None else torch.get_default_dtype()
        self.device = parameter.device if parameter is not None else torch.device("cpu")
        self.deadline = time.monotonic() + _MAX_SECONDS
        self.tried: list[tuple[Inputs, HeadSwapError]] = []

    def run(self) -> Inputs:
        """Return the inputs that were found, or raise `no_inputs`."""
        found = self._on_shapes(candidate_inputs(self.model, self.dtype)) or self._with_values(self._likely())
        if found is None:
            error, cause = self._error()
            raise error from cause
        return found

    def _on_shapes(self, candidates: Iterable[Inputs]) -> Inputs | None:
        """Return the first inputs on which the model runs on meta in both modes, or else in eval mode, or None."""
        in_eval_mode: list[Inputs] = []
        for inputs in candidates:
            if time.monotonic() > self.deadline or len(in_eval_mode) == _MAX_IN_EVAL_MODE:
                break
            error = self._failure(inputs, META)
            if error is not None:
                self.tried.append((inputs, error))
                same = [other for other, before in self.tried if str(before.__cause__) == str(error.__cause__)]
                if len(same) == _MAX_SAME:  # no shape changes it, so it may come from the meta device
                    found = self._with_values(same)
                    if found is not None:
                        return found
                continue
            if self._failure(inputs, META, training=True) is None:
                return inputs
            for larger in _larger_images(inputs):
                if all(self._failure(larger, META, training=mode) is None for mode in (True, False)):
                    return larger
            in_eval_mode.append(inputs)
        return in_eval_mode[0] if in_eval_mode else None

    def _likely(self) -> list[Inputs]:
        """Return the inputs to try with values. Shapes that did not fit without them do not fit with them."""
        likely = [inputs for inputs, error in self.tried if _may_need_values(error)]
        unlikely = [inputs for inputs, error in self.tried if not _may_need_values(error)]
        return [*likely[:_MAX_WITH_VALUES], *unlikely[:_MAX_UNLIKELY]]

    def _with_values(self, candidates: Sequence[Inputs]) -> Inputs | None:
        """Return the first inputs on which the model runs on fake or real tensors, or None."""
        for inputs in candidates:
            for tensor_kind in (FAKE, REAL) if self.device.type != "meta" else (FAKE,):
                if time.monotonic() > self.deadline:
                    return None
                error = self._failure(inputs, tensor_kind)
                if error is None:
                    return inputs
                self.tried.append((inputs, error))
        return None

    def _failure(self, inputs: Inputs, tensor_kind: str, *, training: bool = False) -> HeadSwapError | None:
        """Return why the model does not run on the inputs, or None. Raise errors that no other shape would fix."""

        def limits(_: StandIns) -> TrialLimits:
            return TrialLimits(self.deadline, max_trial_bytes(self.device) if tensor_kind == REAL else None)

        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a warning about a guess would mislead
                abstract_run(
                    self.model,
                    inputs,
                    training=training,
                    tensor_kinds=(tensor_kind,),
                    context=limits if tensor_kind != META else None,
                )
        except HeadSwapError as error:
            if error.reason != "forward_failed":
                raise
            _release_tensors(error)
            return error
        return None

    def _error(self) -> tuple[HeadSwapError, HeadSwapError | None]:
        """Return the error that names what was tried, and as its cause the failure that says most about the model."""
        required = ", ".join(required_arguments(self.model))
        shapes = list(dict.fromkeys(", ".join(str(tuple(t.shape)) for t in each.tensors()) for each, _ in self.tried))
        more = f"; and {len(shapes) - _MAX_NAMED} more" if len(shapes) > _MAX_NAMED else ""
        telling = min((error for _, error in self.tried), key=_says_little, default=None)
        cause = telling.__cause__ if telling is not None else None
        name = type(self.model).__name__
        error = HeadSwapError(
            "no_inputs",
            f"the inputs of {name} could not be inferred: pass example_inputs. forward requires ({required}). "
            f"Tried {'; '.join(shapes[:_MAX_NAMED]) or 'none'}{more}"
            + (f". forward raised {type(cause).__name__}: {first_line(cause)}" if cause is not None else "")
            + (". The time for trials was used up" if time.monotonic() > self.deadline else ""),
        )
        return error, telling


def _release_tensors(error: BaseException) -> None:
    """Drop the local variables of the frames in which an exception was raised: they hold the tensors of the trial."""
    current: BaseException | None = error
    while current is not None:
        traceback.clear_frames(current.__traceback__)
        current = current.__cause__ or current.__context__


def _says_little(error: HeadSwapError) -> int:
    """Return how little a failure says about the model: a wrong guess at the shape says least."""
    cause = error.__cause__
    return 0 if isinstance(cause, TrialLimitError) else 1 + may_depend_on_inputs(cause)


def _may_need_values(error: HeadSwapError) -> bool:
    """Return whether the model may have failed because meta tensors have no values."""
    cause: BaseException | None = error.__cause__
    while cause is not None:
        if isinstance(cause, NotImplementedError) or is_fake_tensor_limitation(cause) or "meta" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _larger_images(inputs: Inputs) -> Iterator[Inputs]:
    """Yield larger square images or volumes: an auxiliary head may need more pixels than the rest of the model."""
    tensors = inputs.tensors()
    if len(tensors) != 1 or tensors[0].dim() not in (4, 5):
        return
    side = tensors[0].shape[-1]
    for size in sorted(size for size in IMAGE_SIZES if size > side)[:_MAX_LARGER]:

        def enlarge(image: torch.Tensor, size: int = size) -> torch.Tensor:
            return image.new_empty((*image.shape[:2], *(size if old == side else old for old in image.shape[2:])))

        yield inputs.map_tensors(enlarge)
