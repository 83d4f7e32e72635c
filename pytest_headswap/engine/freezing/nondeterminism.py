"""Detect operations that make features depend on chance or on the batch, and writes to tensors of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.meta_cache import Execute
from pytest_headswap.engine.abstract.run import abstract_run
from pytest_headswap.engine.abstract.stand_ins import StandIns
from pytest_headswap.engine.dataflow.graph import Node
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import DispatchMode, mutated_tensors, op_name, storage_key

_RANDOM_OPS = ("dropout", "bernoulli", "rand", "normal_", "uniform_", "multinomial", "exponential_", "poisson")
_BATCH_NORMS = {"native_batch_norm": 5, "_native_batch_norm_legit": 5, "cudnn_batch_norm": 5, "miopen_batch_norm": 5}


def is_nondeterministic(node: Node) -> bool:
    """Return whether the operation draws random numbers or uses batch statistics."""
    name = _last_part(node.name)
    if name in _BATCH_NORMS:
        # Instance norm runs as the batch norm of a single sample, with the batch folded into the channels.
        return bool(node.argument(_BATCH_NORMS[name], "training", False)) and node.inputs[0].shape[0] > 1
    return _is_random(name)


def is_deterministic_run(model: nn.Module, inputs: Inputs) -> bool:
    """Return whether an abstract run in train mode is deterministic and writes to no tensor of the model.

    False may be a false alarm. In that case record the data flow, which takes twice as long but is more precise.

    Raises:
        HeadSwapError: `forward_failed`.
    """
    modes: list[_NondeterminismMode] = []

    @contextmanager
    def context(stand_ins: StandIns, _: Sequence[tuple[str, nn.Module]], execute: Execute) -> Iterator[None]:
        modes.append(_NondeterminismMode(stand_ins, execute))
        with modes[-1]:
            yield

    with torch.no_grad():
        abstract_run(model, inputs, training=True, recorder=context)
    return modes[-1].is_deterministic


class _NondeterminismMode(DispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Run every operation in the block.

    `is_deterministic` becomes False if one may be random or writes to the model.
    """

    def __init__(self, stand_ins: StandIns, execute: Execute) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.is_deterministic = True
        self._of_model = {storage_key(tensor) for tensor in stand_ins.tensors()} | {None}
        self._execute = execute

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.is_deterministic:
            written = mutated_tensors(func, args, kwargs)
            self.is_deterministic = not (
                _may_be_nondeterministic(func, args, kwargs)
                or (written and any(storage_key(tensor) in self._of_model for tensor in written))
            )
        return self._execute(func, args, kwargs)


def _may_be_nondeterministic(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    name = _last_part(op_name(func))
    position = _BATCH_NORMS.get(name)
    if position is None:
        return _is_random(name)
    return bool(args[position] if position < len(args) else kwargs.get("training", False))


@cache
def _last_part(name: str) -> str:
    return name.rpartition("::")[2]


@cache
def _is_random(name: str) -> bool:
    return any(word in name for word in _RANDOM_OPS)
