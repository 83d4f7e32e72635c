"""Where a head belongs in a model that was built without one: the `nn.Identity` at its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from pytest_headswap.engine.dataflow.dim_tracer import Tracer
from pytest_headswap.engine.dataflow.graph import PARAMETER, Graph
from pytest_headswap.engine.detection.candidates import Candidate


@dataclass(frozen=True)
class Place:
    """An Identity that becomes a head, and what the layer there has to be.

    `spatial` is the number of dimensions that follow the features: 0 asks for a Linear over the last
    dimension, 2 for a 1x1 Conv2d. `like` names a parameter whose device and dtype the layer takes.
    """

    path: str
    in_features: int
    spatial: int
    like: str

    def build(self, num_classes: int, like: torch.Tensor) -> nn.Module:
        """A layer for `num_classes` classes."""
        device, dtype = like.device, like.dtype
        if self.spatial == 0:
            return nn.Linear(self.in_features, num_classes, device=device, dtype=dtype)
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self.spatial - 1]
        return convolution(self.in_features, num_classes, 1, device=device, dtype=dtype)


def find_places(graph: Graph, tracer: Tracer, candidates: list[Candidate]) -> Iterator[tuple[Candidate, Place]]:
    """The Identity modules with nothing but parameterless operations between them and an output.

    Of several that run directly one after the other it is the first: what comes before a head
    (pooling, norm, dropout) is not an Identity, and what follows it (a flatten) often is.
    """
    for candidate in candidates:
        way = tracer.tail(candidate.axis, candidate.output.size)
        calls = [(call, axis) for call in graph.identities for axis in way if call.value is axis.value]
        if not calls:
            continue
        calls.sort(key=lambda pair: pair[0].after)
        chosen, axis = calls.pop()
        while calls and calls[-1][0].value is chosen.value and calls[-1][0].after == chosen.after - 1:
            chosen, axis = calls.pop()
        ndim = len(axis.value.shape)
        spatial = ndim - 1 - axis.dim
        if ndim < 2 or axis.inner != 1 or spatial > 3:
            continue
        like = min((a.value.name for a in candidate.own_sources() if a.value.origin == PARAMETER), default="")
        yield candidate, Place(chosen.path, candidate.output.size, spatial, like)
