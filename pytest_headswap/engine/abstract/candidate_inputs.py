"""Candidates for the inputs of a model, the most likely first. They are meta tensors, which take no memory."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.layer_shapes import (
    BATCH,
    NUM_TOKENS,
    Shape,
    common_shapes,
    layer_shapes,
    stated_shapes,
)
from pytest_headswap.engine.abstract.run import abstract_run
from pytest_headswap.engine.abstract.stand_ins import META
from pytest_headswap.engine.abstract.stated_inputs import stated_inputs, stated_sizes
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs

_MAX_LAYERS = 24
_MAX_OF_LAYERS = 150
_MAX_STATED = 40
_MAX_COMMON = 120
_MAX_COMBINED = 100
_MAX_ARGUMENTS = 4
_MAX_OPTIONS = 8  # shapes to combine for each of several arguments
_LIST_SIZES = (256, 224, 64)  # of images in a list

_TOKENS = Shape((BATCH, NUM_TOKENS), torch.long)
_PER_SAMPLE = Shape((BATCH,), torch.long)
_HINTS: tuple[tuple[tuple[str, ...], tuple[Shape, ...]], ...] = (
    (("edge", "adj", "graph"), ()),  # no shape of a graph follows from the layers
    (("mask",), (Shape((BATCH, NUM_TOKENS), torch.bool), Shape((BATCH, NUM_TOKENS), torch.long))),
    (("length", "timestep", "label"), (_PER_SAMPLE,)),
    (("ids", "token", "text", "src", "tgt"), (_TOKENS,)),
)
"""Shapes of the arguments whose names contain a word."""


def candidate_inputs(model: nn.Module, dtype: torch.dtype) -> Iterator[Inputs]:
    """Yield what the model states, then shapes that fit its layers, then shapes that many models accept."""
    yield from stated_inputs(model)
    stated = stated_sizes(model)
    layers = list(itertools.islice(layer_shapes(model, stated), _MAX_LAYERS))
    required = required_arguments(model)
    if len(required) > 1 or "input_ids" in required:
        for values in _combined(required, layers, dtype):
            yield Inputs(kwargs=values)
    if len(required) > 1:
        return
    shapes = itertools.chain(
        itertools.islice(stated_shapes(stated), _MAX_STATED),
        itertools.islice(_interleaved(layers), _MAX_OF_LAYERS),
        itertools.islice(common_shapes(model, stated), _MAX_COMMON if layers else 0),
    )
    for shape in dict.fromkeys(shapes):
        yield Inputs((_empty(shape, dtype),))
    for size, channels in itertools.product(_LIST_SIZES if layers else (), (3, 1)):
        yield Inputs(([_empty(Shape((channels, size, size)), dtype) for _ in range(BATCH)],))
    yield from _mappings(model, layers, dtype)


def required_arguments(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the required arguments of forward."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ("input",)
    names = tuple(
        p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.default is p.empty
    )
    if not names and any(p.name == "input_ids" for p in parameters):
        return ("input_ids",)
    return names


def _empty(shape: Shape, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape.sizes, dtype=shape.dtype or dtype, device="meta")


def _interleaved(layers: Sequence[Sequence[Shape]]) -> Iterator[Shape]:
    """Yield the shapes of all layers: early layers first, but no shape of a layer before all its better ones."""
    ranked = [
        (2 * layer + position, layer, shape)
        for layer, shapes in enumerate(layers)
        for position, shape in enumerate(shapes)
    ]
    return (shape for *_, shape in sorted(ranked, key=lambda item: item[:2]))


def _combined(
    names: Sequence[str], layers: Sequence[Sequence[Shape]], dtype: torch.dtype
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield values for several arguments: equal shapes, or shapes that fit different layers."""
    if len(names) > _MAX_ARGUMENTS:
        return
    first = [shape for column in itertools.zip_longest(*layers) for shape in column if shape is not None]
    options = [_options(name, list(dict.fromkeys(first))[:_MAX_OPTIONS]) for name in names]
    choices = sorted(
        itertools.product(*(range(len(shapes)) for shapes in options)),
        key=lambda choice: sum(choice) if len(set(choice)) > 1 else choice[0],
    )
    for choice in choices[:_MAX_COMBINED]:
        shapes = [shapes[index] for shapes, index in zip(options, choice, strict=True)]
        yield {name: _empty(shape, dtype) for name, shape in zip(names, shapes, strict=True)}


def _options(name: str, shapes: list[Shape]) -> list[Shape]:
    for words, hinted in _HINTS:
        if any(word in name.lower() for word in words):
            return list(hinted)
    return [*shapes, _PER_SAMPLE] if shapes else []


def _mappings(model: nn.Module, layers: Sequence[Sequence[Shape]], dtype: torch.dtype) -> Iterator[Inputs]:
    """Yield mappings with the keys that forward looks up in its argument."""
    for names in (("input_ids",), ("input_ids", "attention_mask")):
        yield from (Inputs((values,)) for values in _combined(names, layers, dtype))
    keys: tuple[str, ...] = ()
    while len(keys) <= _MAX_ARGUMENTS:
        found = keys
        for values in _combined(keys, layers, dtype) if keys else ({},):
            probe = _KeyProbe(values)
            with suppress(HeadSwapError), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                abstract_run(model, Inputs((probe,)), tensor_kinds=(META,))
            if probe.missing:
                found = (*keys, probe.missing[0])
                break
            yield Inputs((values,))
        if found == keys:
            return
        keys = found


class _KeyProbe(dict[str, Any]):
    """A mapping that notes which missing keys are looked up."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.missing: list[str] = []

    def __missing__(self, key: Any) -> Any:
        if isinstance(key, str):
            self.missing.append(key)
        raise KeyError(key)
