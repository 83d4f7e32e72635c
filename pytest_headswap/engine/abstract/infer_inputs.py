"""Infer inputs for a model: try the inputs it declares, then shapes that fit its layers.

Candidates are meta tensors, so trying one needs no memory. Only the chosen one gets values.
"""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from pytest_headswap.engine.abstract.run import abstract_run
from pytest_headswap.engine.abstract.stand_ins import META, REAL, TENSOR_KINDS
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs

BATCH = 2  # batch norm needs more than one sample in train mode
_IMAGE_SIZES = (224, 32, 64, 28, 96, 128, 256, 299, 384, 512, 112, 160, 192, 240, 288, 320, 331, 448, 48, 16, 8)
_AUDIO_LENGTHS = (1024, 16000, 256, 128, 64, 3000, 48000)
_CLIP_SIZES = ((16, 112), (8, 32), (4, 16), (16, 224), (8, 224))
_NUM_TOKENS = 16
_MAX_ATTEMPTS = 40
_MAX_LARGER = 5  # larger images to try if train mode fails
_MAX_IN_EVAL_MODE = 8  # eval-mode candidates to try before giving up on train mode
_MAX_REAL_BYTES = 2**25  # largest candidate for real arithmetic; its activations take a multiple of this
_MAX_REAL_SECONDS = 30.0  # time limit for candidates with real arithmetic


def infer_inputs(model: nn.Module) -> Inputs:
    """Return inputs on which the model runs in eval mode, and if possible also in train mode.

    They are zeros on the device and in the dtype of the model.

    Raises:
        HeadSwapError: `no_inputs` if none could be inferred. Any other code means that the model cannot run on any
            input.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    dtype = parameter.dtype if parameter is not None else torch.get_default_dtype()
    attempts: list[Inputs] = []
    error: HeadSwapError | None = None
    for tensor_kind in TENSOR_KINDS:
        in_eval_mode: list[Inputs] = []
        for inputs in _limited_candidates(tensor_kind, model, dtype, device):
            if tensor_kind == REAL:
                inputs = _materialize(inputs, device)
            failure = _forward_error(model, inputs, tensor_kind)
            if failure is not None:
                error = error or failure
                attempts.append(inputs)
                continue
            in_eval_mode.append(inputs)
            if tensor_kind != META or _forward_error(model, inputs, META, training=True) is None:
                return _materialize(inputs, device)
            for larger in _larger_images(inputs):
                if all(_forward_error(model, larger, META, training=mode) is None for mode in (True, False)):
                    return _materialize(larger, device)
            if len(in_eval_mode) == _MAX_IN_EVAL_MODE:
                break
        if in_eval_mode:
            return _materialize(in_eval_mode[0], device)
    shapes = dict.fromkeys(", ".join(str(tuple(tensor.shape)) for tensor in inputs.tensors()) for inputs in attempts)
    raise HeadSwapError(
        "no_inputs",
        f"the inputs of {type(model).__name__} could not be inferred: pass example_inputs. "
        f"Tried {'; '.join(shapes) or 'none'}" + (f". The first attempt failed: {error.message}" if error else ""),
    ) from error


def _forward_error(
    model: nn.Module, inputs: Inputs, tensor_kind: str, *, training: bool = False
) -> HeadSwapError | None:
    """Return why the model does not run on the inputs, or None. Raise errors that no other shape would fix."""
    try:
        with torch.no_grad():
            abstract_run(model, inputs, training=training, tensor_kinds=(tensor_kind,))
    except HeadSwapError as error:
        if error.reason != "forward_failed":
            raise
        return error
    return None


def _larger_images(inputs: Inputs) -> Iterator[Inputs]:
    """Yield larger square images: an auxiliary head may need more pixels than the rest of the model."""
    tensors = inputs.tensors()
    if len(tensors) == 1 and tensors[0].dim() == 4:
        for size in sorted(size for size in _IMAGE_SIZES if size > tensors[0].shape[-1])[:_MAX_LARGER]:

            def enlarge(image: torch.Tensor, size: int = size) -> torch.Tensor:
                return image.new_empty((*image.shape[:2], size, size))

            yield inputs.map_tensors(enlarge)


def _limited_candidates(
    tensor_kind: str, model: nn.Module, dtype: torch.dtype, device: torch.device
) -> Iterator[Inputs]:
    """Yield the candidates to try with one kind of tensors. Real arithmetic is limited in memory and time."""
    deadline = time.monotonic() + _MAX_REAL_SECONDS
    for inputs in itertools.islice(_candidates(model, dtype), _MAX_ATTEMPTS):
        if tensor_kind == REAL:
            if device.type == "meta" or time.monotonic() > deadline:
                return
            if sum(tensor.nbytes for tensor in inputs.tensors()) > _MAX_REAL_BYTES:
                continue
        yield inputs


def _materialize(inputs: Inputs, device: torch.device) -> Inputs:
    """Return the inputs with meta tensors replaced by zeros on `device`."""
    return inputs.map_tensors(
        lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype, device=device) if tensor.is_meta else tensor
    )


def _candidates(model: nn.Module, dtype: torch.dtype) -> Iterator[Inputs]:
    """Yield candidates, the most likely first: meta tensors, or the dummy inputs of the model."""
    yield from _declared_inputs(model, dtype)
    required = _required_arguments(model)
    if "input_ids" in required:
        yield Inputs(kwargs={"input_ids": torch.empty(BATCH, _NUM_TOKENS, dtype=torch.long, device="meta")})
    if len(required) > 1:
        return  # The matching shapes of several inputs cannot be inferred.
    tried: set[tuple[int, ...]] = set()
    shapes = list(_candidate_shapes(model))
    # the first choice of every layer, then the second of every layer, and so on
    for shape in itertools.chain.from_iterable(itertools.zip_longest(*shapes)):
        if shape is None or shape in tried:
            continue
        tried.add(shape)
        if shape[0] < 0:  # marks indices
            yield _meta_input((-shape[0], *shape[1:]), torch.long)
        else:
            yield _meta_input(shape, dtype)


def _meta_input(shape: tuple[int, ...], dtype: torch.dtype) -> Inputs:
    return Inputs((torch.empty(shape, dtype=dtype, device="meta"),))


def _declared_inputs(model: nn.Module, dtype: torch.dtype) -> Iterator[Inputs]:
    """Yield the inputs that the model declares: dummy inputs, or the input size in its configuration."""
    try:
        dummy = getattr(model, "dummy_inputs", None)
    except Exception:  # noqa: BLE001 - a property of the model may raise anything
        dummy = None
    if isinstance(dummy, Mapping) and any(isinstance(value, torch.Tensor) for value in dummy.values()):
        yield Inputs(kwargs=dict(dummy))
    for name in ("pretrained_cfg", "default_cfg", "config"):
        config = getattr(model, name, None)
        get = config.get if isinstance(config, Mapping) else (lambda key, config=config: getattr(config, key, None))
        size = get("input_size")
        if isinstance(size, (tuple, list)) and all(isinstance(item, int) and item > 0 for item in size):
            yield _meta_input((BATCH, *size), dtype)
        image, channels = get("image_size"), get("num_channels")
        if isinstance(image, int) and isinstance(channels, int) and min(image, channels) > 0:
            yield _meta_input((BATCH, channels, image, image), dtype)


def _required_arguments(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the required arguments of forward."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ("input",)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = tuple(p.name for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty)
    if not names and any(p.name == "input_ids" for p in parameters):
        return ("input_ids",)
    return names


def _candidate_shapes(model: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """Yield the input shapes of each layer that could be the first. A negative batch size marks indices."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            yield [(BATCH, module.in_channels, size, size) for size in _IMAGE_SIZES]
        elif isinstance(module, nn.Conv1d):
            yield [(BATCH, module.in_channels, size) for size in _AUDIO_LENGTHS]
        elif isinstance(module, nn.Conv3d):
            yield [(BATCH, module.in_channels, frames, size, size) for frames, size in _CLIP_SIZES]
        elif isinstance(module, nn.Embedding):
            yield [(-BATCH, _NUM_TOKENS)]
        elif isinstance(module, nn.RNNBase):
            yield [(BATCH, _NUM_TOKENS, module.input_size)]
        elif isinstance(module, nn.MultiheadAttention):
            yield [(BATCH, _NUM_TOKENS, module.embed_dim)]
        elif isinstance(module, nn.Linear):
            yield [(BATCH, module.in_features), (BATCH, _NUM_TOKENS, module.in_features)]
        elif not any(True for _ in module.children()):
            widths = [value.shape[-1] for value in module.parameters(recurse=False) if value.dim() == 2]
            yield [(BATCH, width) for width in widths]
