"""Name the class-sized tensors that forward does not use: weights of a loss, a copy of the head, a second head."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.meta_cache import Execute
from pytest_headswap.engine.abstract.run import abstract_run
from pytest_headswap.engine.abstract.stand_ins import TENSOR_KINDS, StandIns
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import DispatchMode, tensors_of_call
from pytest_headswap.engine.pytorch.modules import named_buffers, named_parameters


class _UseFinder(DispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Remember which of these tensors an operation reads or writes."""

    def __init__(self, names: Mapping[int, str], execute: Execute) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self._names = names
        self._execute = execute
        self.used: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.used.update(self._names[id(x)] for x in tensors_of_call(args, kwargs or {}) if id(x) in self._names)
        return self._execute(func, args, kwargs or {})


def unused_class_tensors(
    model: nn.Module, inputs: Inputs, tensor_kinds: Mapping[bool, str], counts: Collection[int], new: Collection[str]
) -> list[str]:
    """Return the names of the tensors that have a dimension of an old class count and that forward does not use.

    `tensor_kinds` has the modes to run, and `new` the names of the tensors of the new head.
    """
    sizes = {count for count in counts if count > 1}
    found = {
        name: tensor
        for name, tensor in (*named_parameters(model), *named_buffers(model))
        if name not in new and not sizes.isdisjoint(tensor.shape)
    }
    for training, tensor_kind in tensor_kinds.items() if found else ():
        used = _used(model, inputs, training, TENSOR_KINDS[TENSOR_KINDS.index(tensor_kind) :], found)
        found = {name: tensor for name, tensor in found.items() if name not in used}
    return list(found)


def _used(
    model: nn.Module,
    inputs: Inputs,
    training: bool,
    tensor_kinds: Sequence[str],
    tensors: Mapping[str, torch.Tensor],
) -> Collection[str]:
    """Return the names of the tensors that forward uses; all of them if the model does not run."""
    finders: list[_UseFinder] = []

    @contextmanager
    def recorder(stand_ins: StandIns, _: Sequence[tuple[str, nn.Module]], execute: Execute) -> Iterator[None]:
        names = {id(stand_ins.existing(tensor)): name for name, tensor in tensors.items()}
        finders.append(_UseFinder(names, execute))
        with finders[-1]:
            yield

    try:
        with torch.no_grad():
            abstract_run(model, inputs, training=training, tensor_kinds=tensor_kinds, recorder=recorder)
    except HeadSwapError:
        return tensors.keys()
    return finders[-1].used
