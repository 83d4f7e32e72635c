"""Name the class-sized tensors that forward does not use: weights of a loss, a copy of the head, a second head."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pytest_headswap.engine.abstract.meta_cache import Execute
from pytest_headswap.engine.abstract.run import abstract_run
from pytest_headswap.engine.abstract.stand_ins import TENSOR_KINDS, StandIns
from pytest_headswap.engine.dataflow.recorder import record
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import TorchDispatchMode, tensors_of_call
from pytest_headswap.engine.pytorch.modules import named_buffers, named_parameters
from pytest_headswap.engine.swapping.numbers_around import NumbersAround

_MAX_NAMED = 6


class _UseFinder(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Remember which of these tensors an operation reads or writes."""

    def __init__(self, names: Mapping[int, str], execute: Execute) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self._names = names
        self._execute = execute
        self.used: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.used.update(self._names[id(x)] for x in tensors_of_call(args, kwargs or {}) if id(x) in self._names)
        return self._execute(func, args, kwargs or {})


def left_behind(
    model: nn.Module,
    inputs: Inputs,
    tensor_kinds: Mapping[bool, str],
    counts: Collection[int],
    new: Collection[str],
    around: NumbersAround,
) -> list[str]:
    """Return notes that name what has the old class count, was not changed, and affects no output.

    Args:
        model: the model, with its new head.
        inputs: the arguments of forward.
        tensor_kinds: the modes to run, with the kind of tensors of each.
        counts: the old class counts.
        new: the names of the tensors of the new head.
        around: what the model stores around its head.
    """
    sizes = {count for count in counts if count > 1}
    registered = {
        name: tensor
        for name, tensor in (*named_parameters(model), *named_buffers(model))
        if name not in new and not sizes.isdisjoint(tensor.shape)
    }
    held = {label: tensor for label, tensor in around.tensors_by_class().items() if not sizes.isdisjoint(tensor.shape)}
    numbers = [number for number in around.on_other_modules() if number.value in sizes]
    called: set[int] = set()
    for training, tensor_kind in tensor_kinds.items() if registered or held or numbers else ():
        kinds = TENSOR_KINDS[TENSOR_KINDS.index(tensor_kind) :]
        try:
            used, mine = _used(model, inputs, training, kinds, {**registered, **held})
            called |= mine
            live = _reaching_output(model, inputs, training, kinds) if registered.keys() & used else used
        except HeadSwapError:
            return []
        registered = {
            name: tensor
            for name, tensor in registered.items()
            if name not in (live if isinstance(tensor, nn.Parameter) else used)  # integer outputs may use buffers
        }
        held = {label: tensor for label, tensor in held.items() if label not in used}
    notes = []
    if names := [*registered, *held, *around.values_by_class()]:
        notes.append(
            f"{_listed(names)}: a dimension equals the old class count, and no output of this forward uses it. It was "
            "not changed. Set a new one if it has an entry for each class"
        )
    idle = [number for number in numbers if id(model.get_submodule(number.path)) not in called]
    if idle:
        notes.append(
            f"{_listed([f'{number.label} = {number.value}' for number in idle])}: equal to the old class count, on a "
            "module that this forward does not run. It was not changed. Set a new value if it counts classes"
        )
    return notes


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"{', '.join(names[:_MAX_NAMED])}{more}"


def _reaching_output(model: nn.Module, inputs: Inputs, training: bool, tensor_kinds: Sequence[str]) -> Collection[str]:
    """Return the names of the tensors that an output depends on."""
    graph = record(model, inputs, training=training, tensor_kinds=tensor_kinds)
    values = [value for node in graph.live_nodes() for value in node.inputs]
    names = {name for value in (*values, *graph.outputs.values()) for name in value.names}
    graph.clear()
    return names


def _used(
    model: nn.Module,
    inputs: Inputs,
    training: bool,
    tensor_kinds: Sequence[str],
    tensors: Mapping[str, torch.Tensor],
) -> tuple[set[str], set[int]]:
    """Return the names of the tensors that forward uses, and the ids of the modules that it runs."""
    finders: list[_UseFinder] = []
    called: set[int] = set()

    @contextmanager
    def recorder(stand_ins: StandIns, _: Sequence[tuple[str, nn.Module]], execute: Execute) -> Iterator[None]:
        names = {id(stand_ins.existing(tensor)): name for name, tensor in tensors.items()}
        finders.append(_UseFinder(names, execute))
        hook = register_module_forward_pre_hook(lambda module, _: called.add(id(module)))
        try:
            with finders[-1]:
                yield
        finally:
            hook.remove()

    with torch.no_grad():
        abstract_run(model, inputs, training=training, tensor_kinds=tensor_kinds, recorder=recorder)
    return finders[-1].used, called
