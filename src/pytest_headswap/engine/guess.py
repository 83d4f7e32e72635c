"""Work out inputs for a model when none are given: what it says of itself first, then shapes that fit its layers."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract import META, WAYS, abstract_run
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.inputs import Inputs, as_inputs

BATCH = 2  # batch norm cannot be trained on one sample
_PIXELS = (224, 32, 64, 28, 96, 128, 256, 299, 384, 512, 112, 160, 192, 240, 288, 320, 331, 448, 48, 16, 8)
_SAMPLES = (1024, 16000, 256, 128, 64, 3000, 48000)
_CLIPS = ((16, 112), (8, 32), (4, 16), (16, 224), (8, 224))
_TOKENS = 16
_MOST_TRIES = 40


def inputs_for(model: nn.Module, example_inputs: Any = None) -> Inputs:
    """The given inputs, or ones on which the model runs.

    Raises:
        HeadSwapError: `bad_inputs` for given ones that cannot be read; `no_inputs` when nothing was found.
    """
    if example_inputs is not None:
        return as_inputs(example_inputs)
    tried: list[str] = []
    error: HeadSwapError | None = None
    candidates = [as_inputs(item) for item in itertools.islice(_candidates(model), _MOST_TRIES)]
    for ways in ((META,), WAYS[1:]):
        for inputs in candidates:
            try:
                with torch.no_grad():
                    abstract_run(model, inputs, ways=ways)
            except HeadSwapError as failed:
                error = error or failed
                tried.append(", ".join(str(tuple(tensor.shape)) for tensor in inputs.tensors()))
            else:
                return inputs
    shapes = "; ".join(dict.fromkeys(tried))
    raise HeadSwapError(
        "no_inputs",
        f"no inputs for {type(model).__name__} could be worked out: pass example_inputs. Tried {shapes or 'none'}"
        + (f". The first attempt: {error.message}" if error else ""),
    ) from error


def _candidates(model: nn.Module) -> Iterator[Any]:
    """What to try, most likely first. All zeros, on the device and in the dtype of the model."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    options: dict[str, Any] = {"device": like.device, "dtype": like.dtype} if like is not None else {}
    device = options.get("device", "cpu")
    yield from _stated(model, options)
    takes = _required(model)
    if "input_ids" in takes:
        yield {"input_ids": torch.zeros(BATCH, _TOKENS, dtype=torch.long, device=device)}
    if len(takes) > 1:
        return  # several inputs: which shapes go together cannot be told
    seen: set[tuple[int, ...]] = set()
    shapes = list(_shapes(model))
    # the first choice of every layer, then the second of every layer, and so on
    for shape in itertools.chain.from_iterable(itertools.zip_longest(*shapes)):
        if shape is None or shape in seen:
            continue
        seen.add(shape)
        if shape[0] < 0:  # marks indices
            yield torch.zeros(-shape[0], *shape[1:], dtype=torch.long, device=device)
        else:
            yield torch.zeros(shape, **options)


def _stated(model: nn.Module, options: dict[str, Any]) -> Iterator[Any]:
    """Inputs that the model itself names: dummy inputs, or the input size in its configuration."""
    try:
        dummy = getattr(model, "dummy_inputs", None)
    except Exception:  # noqa: BLE001 - a property of the model's; whatever it raises, there are other ways
        dummy = None
    if isinstance(dummy, Mapping) and any(isinstance(value, torch.Tensor) for value in dummy.values()):
        yield dict(dummy)
    for name in ("pretrained_cfg", "default_cfg", "config"):
        config = getattr(model, name, None)
        get = config.get if isinstance(config, Mapping) else (lambda key, config=config: getattr(config, key, None))
        size = get("input_size")
        if isinstance(size, (tuple, list)) and all(isinstance(item, int) for item in size):
            yield torch.zeros(BATCH, *size, **options)
        image, channels = get("image_size"), get("num_channels")
        if isinstance(image, int) and isinstance(channels, int):
            yield torch.zeros(BATCH, channels, image, image, **options)


def _required(model: nn.Module) -> tuple[str, ...]:
    """Names of the arguments that forward cannot do without."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ("input",)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = tuple(p.name for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty)
    if not names and any(p.name == "input_ids" for p in parameters):
        return ("input_ids",)
    return names


def _shapes(model: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """For each layer that could be the first one: the shapes that it takes. A negative batch asks for indices."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            yield [(BATCH, module.in_channels, size, size) for size in _PIXELS]
        elif isinstance(module, nn.Conv1d):
            yield [(BATCH, module.in_channels, size) for size in _SAMPLES]
        elif isinstance(module, nn.Conv3d):
            yield [(BATCH, module.in_channels, frames, size, size) for frames, size in _CLIPS]
        elif isinstance(module, nn.Embedding):
            yield [(-BATCH, _TOKENS)]
        elif isinstance(module, nn.RNNBase):
            yield [(BATCH, _TOKENS, module.input_size)]
        elif isinstance(module, nn.MultiheadAttention):
            yield [(BATCH, _TOKENS, module.embed_dim)]
        elif isinstance(module, nn.Linear):
            yield [(BATCH, module.in_features), (BATCH, _TOKENS, module.in_features)]
        elif not any(True for _ in module.children()):
            widths = [value.shape[-1] for value in module.parameters(recurse=False) if value.dim() == 2]
            yield [(BATCH, width) for width in widths]
