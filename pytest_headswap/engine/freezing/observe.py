"""Run a frozen model without a record of its data flow, and observe what it writes, draws and computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.meta_cache import Execute
from pytest_headswap.engine.abstract.run import abstract_run
from pytest_headswap.engine.abstract.stand_ins import StandIns
from pytest_headswap.engine.freezing.held_state import HeldState
from pytest_headswap.engine.freezing.mode_reads import mode_reads
from pytest_headswap.engine.freezing.nondeterminism import counts_all, is_nondeterministic, may_combine_samples
from pytest_headswap.engine.pytorch.digest import digest
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import DispatchMode, mutated_tensors, op_name, storage_key

_PERTURBED_RUNS = 8  # a branch taken with a probability of one half stays unnoticed in 1 of 256 models
PLAIN_ARGUMENTS = frozenset((bool, int, float, str, type(None)))


@dataclass(eq=False)
class Observation:
    """What a run without a record of the data flow shows.

    Attributes:
        is_suspicious: whether the features may depend on chance or the batch, or the model was written to. This may be
            a false alarm.
        reads_mode: whether one of the given modules was asked if it is in train mode.
        operations: the operations with their arguments, if they were asked for.
        used_generators: names of the generators of Python and NumPy that the run used.
        generator_states: their states after the run.
    """

    is_suspicious: bool
    reads_mode: bool
    operations: list[Any]
    used_generators: list[str]
    generator_states: list[Any]


def observe(
    model: nn.Module,
    inputs: Inputs,
    *,
    training: bool,
    readers: Sequence[nn.Module] = (),
    keep_operations: bool = False,
    advance: Sequence[str] = (),
) -> Observation:
    """Run the model once.

    Args:
        model: the model.
        inputs: the arguments of its forward.
        training: True for train mode.
        readers: the modules whose reads of their mode are noticed.
        keep_operations: whether to keep the operations.
        advance: names of generators to draw a number from before.

    Raises:
        HeadSwapError: `forward_failed`.
    """
    results: list[Observation] = []
    batch = next((tensor.shape[0] for tensor in inputs.tensors() if tensor.dim()), 0)

    @contextmanager
    def context(stand_ins: StandIns, named: Sequence[tuple[str, nn.Module]], execute: Execute) -> Iterator[None]:
        mode = _ObservingMode(stand_ins, execute, batch, keep_operations)
        before = HeldState(named)
        try:
            for name in advance:
                before.generators[name].advance()
            with mode_reads(readers) as reads, mode:
                yield
            used = before.used_generators()
            suspicious = mode.is_suspicious or bool(used or before.changed_tensors(HeldState(named)))
            states = [before.generators[name].state() for name in used]
            results.append(Observation(suspicious, bool(reads), mode.operations, used, states))
        finally:
            before.restore_generators()

    with torch.no_grad():
        abstract_run(model, inputs, training=training, recorder=context)
    return results[-1]


def depends_on_generators(model: nn.Module, inputs: Inputs, *, training: bool) -> list[str]:
    """Return the generators of Python and NumPy that affect the operations of the model.

    A generator that forward seeds itself, or whose numbers it does not use, does not count.

    Raises:
        HeadSwapError: `forward_failed`.
    """
    first = observe(model, inputs, training=training, keep_operations=True)
    used = first.used_generators
    for count in range(1, _PERTURBED_RUNS + 1) if used else ():
        other = observe(model, inputs, training=training, keep_operations=True, advance=used * count)
        if other.operations != first.operations:
            return used
        if other.generator_states == first.generator_states:
            break
    return []


class _ObservingMode(DispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Run every operation in the block, and note whether one is suspicious."""

    def __init__(self, stand_ins: StandIns, execute: Execute, batch: int, keep_operations: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.is_suspicious = False
        self.operations: list[Any] = []
        self._of_model = {storage_key(tensor) for tensor in stand_ins.tensors()} | {None}
        self._counts: dict[int | None, torch.Tensor] = {}
        self._execute = execute
        self._batch = batch
        self._keep_operations = keep_operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._keep_operations:
            self.operations.append((op_name(func), _plain(args), _plain(tuple(kwargs.items()))))
        if not self.is_suspicious:
            written = mutated_tensors(func, args, kwargs)
            self.is_suspicious = (
                is_nondeterministic(func, args, kwargs)
                or may_combine_samples(func, args, kwargs, self._batch, self._of_model, self._counts)
                or any(storage_key(tensor) in self._of_model for tensor in written)
            )
        result = self._execute(func, args, kwargs)
        if counts_all(func, args, self._batch):
            self._counts[storage_key(result)] = result  # kept alive, so that the key stays its own
        return result


def _plain(value: Any) -> Any:
    """Return an argument in a form that can be compared: tensors by shape, constants by a digest of their values."""
    kind = type(value)
    if kind in PLAIN_ARGUMENTS:
        return value
    if isinstance(value, torch.Tensor):
        if kind is torch.Tensor and value.device.type == "cpu" and value.layout is torch.strided and value.numel():
            return digest(value)
        return value.shape, value.dtype
    return tuple(_plain(item) for item in value) if isinstance(value, (list, tuple)) else str(kind)
