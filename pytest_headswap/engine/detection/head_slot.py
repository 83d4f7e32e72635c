"""Find the head slot of a model that was built without a head: the `nn.Identity` before its output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from pytest_headswap.engine.dataflow.dim_tracer import Tracer
from pytest_headswap.engine.dataflow.graph import PARAMETER, Graph
from pytest_headswap.engine.detection.candidates import Candidate


@dataclass(frozen=True)
class HeadSlot:
    """A head slot: an Identity that becomes a head, and the kind of layer that fits there.

    `spatial` is the number of dimensions after the features: 0 means a Linear over the last dimension, 2 a 1x1
    Conv2d. `template` names a parameter whose device and dtype the new layer takes.
    """

    path: str
    in_features: int
    spatial: int
    template: str

    def build(self, num_classes: int, template: torch.Tensor) -> nn.Module:
        """Return a new layer for `num_classes` classes, with the device and dtype of `template`."""
        device, dtype = template.device, template.dtype
        if self.spatial == 0:
            return nn.Linear(self.in_features, num_classes, device=device, dtype=dtype)
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self.spatial - 1]
        return convolution(self.in_features, num_classes, 1, device=device, dtype=dtype)


def find_head_slots(graph: Graph, tracer: Tracer, candidates: list[Candidate]) -> Iterator[tuple[Candidate, HeadSlot]]:
    """Yield the Identity modules that only parameterless operations separate from an output.

    If several run one directly after another, choose the first. The layers before a head (pooling, norm, dropout) are
    not Identities, while those after it (a flatten) often are.
    """
    for candidate in candidates:
        path = tracer.parameterless_tail(candidate.axis, candidate.output.size)
        calls = [(call, axis) for call in graph.identities for axis in path if call.value is axis.value]
        if not calls:
            continue
        calls.sort(key=lambda pair: pair[0].modules_run_before)
        chosen, axis = calls.pop()
        while (
            calls
            and calls[-1][0].value is chosen.value
            and calls[-1][0].modules_run_before == chosen.modules_run_before - 1
        ):
            chosen, axis = calls.pop()
        ndim = len(axis.value.shape)
        spatial = ndim - 1 - axis.dim
        if ndim < 2 or axis.inner != 1 or spatial > 3:
            continue
        template = min((a.value.name for a in candidate.model_sources() if a.value.origin == PARAMETER), default="")
        yield candidate, HeadSlot(chosen.path, candidate.output.size, spatial, template)
