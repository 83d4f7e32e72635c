"""Name what has the old class count and affects no output: weights of a loss, a copy of the head, another exit."""

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
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.internals import DispatchMode, tensors_of_call
from pytest_headswap.engine.pytorch.modules import named_buffers, named_parameters, owner_path
from pytest_headswap.engine.swapping.numbers_around import NumbersAround
from pytest_headswap.engine.swapping.plan import SwapPlan
from pytest_headswap.engine.swapping.transaction import Transaction

_MAX_NAMED = 6


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


def left_behind(
    plan: SwapPlan, counts: Collection[int], new: Collection[str], around: NumbersAround, changes: Transaction
) -> list[str]:
    """Return notes that name what has the old class count, was not changed, and affects no output.

    Args:
        plan: the plan of the swap, which is in place.
        counts: the old class counts.
        new: the names of the tensors of the new head.
        around: what the model stores around its head.
        changes: what the swap changed.
    """
    model, sizes = plan.model, {count for count in counts if count > 1}
    registered = {
        name: tensor
        for name, tensor in (*named_parameters(model), *named_buffers(model))
        if name not in new and name not in plan.search_result.used and not sizes.isdisjoint(tensor.shape)
    }
    inputs = {id(tensor) for tensor in plan.inputs.tensors()}
    held = {
        label: tensor
        for label, tensor in around.tensors_by_class().items()
        if id(tensor) not in inputs and not sizes.isdisjoint(tensor.shape)
    }
    numbers = [
        number
        for number in around.on_other_modules()
        if number.value in sizes and not changes.has_placed(number.container)
    ]
    called: set[int] = set()
    if held or numbers:
        try:
            used, called = _used(plan, held)
        except HeadSwapError:
            used, numbers = set(held), []
        held = {label: tensor for label, tensor in held.items() if label not in used}
    notes = []
    if names := [*registered, *held, *around.values_by_class()]:
        notes.append(
            f"{_listed(names)}: a dimension equals the old class count, and no output of this forward uses it. It was "
            f"not changed. Set a new one if it has an entry for each class{_advice(registered)}"
        )
    idle = [number for number in numbers if id(model.get_submodule(number.path)) not in called]
    if idle:
        names = list(dict.fromkeys(f"{number.label} = {number.value}" for number in idle))
        notes.append(
            f"{_listed(names)}: equal to the old class count, on a "
            "module that this forward does not run. It was not changed. Set a new value if it counts classes"
        )
    return notes


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"{', '.join(names[:_MAX_NAMED])}{more}"


def _advice(unused: Mapping[str, torch.Tensor]) -> str:
    """Return how to swap a head that this forward did not take, if one of the tensors may be its weight."""
    weight = next((name for name, x in unused.items() if isinstance(x, nn.Parameter) and x.dim() > 1), None)
    if weight is None:
        return ""
    return (
        ". If it is the head of another branch, call swap_head again with the inputs or settings that take the branch, "
        f"and with head={owner_path(weight) or weight!r}"
    )


def _used(plan: SwapPlan, tensors: Mapping[str, torch.Tensor]) -> tuple[set[str], set[int]]:
    """Return which of these tensors forward uses, and the ids of the modules that it runs, in any mode."""
    used: set[str] = set()
    called: set[int] = set()

    @contextmanager
    def recorder(stand_ins: StandIns, _: Sequence[tuple[str, nn.Module]], execute: Execute) -> Iterator[None]:
        finder = _UseFinder({id(stand_ins.existing(tensor)): name for name, tensor in tensors.items()}, execute)
        hook = register_module_forward_pre_hook(lambda module, _: called.add(id(module)))
        try:
            with finder:
                yield
        finally:
            hook.remove()
            used.update(finder.used)

    for training, tensor_kind in plan.search_result.tensor_kinds.items():
        kinds = TENSOR_KINDS[TENSOR_KINDS.index(tensor_kind) :]
        with torch.no_grad():
            abstract_run(plan.model, plan.inputs, training=training, tensor_kinds=kinds, recorder=recorder)
    return used, called
