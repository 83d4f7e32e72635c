"""Build a case: a model, inputs for it, what it does before the swap, and the swap."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pytest_headswap.checks.arena import ARENAS
from pytest_headswap.checks.case import Case
from pytest_headswap.checks.finding import NUMERIC, STRUCTURE
from pytest_headswap.checks.lean import is_lean, lean_if_possible, on_meta_if_possible
from pytest_headswap.checks.record import Record
from pytest_headswap.checks.samples import drawn, seed_of, seeded, sizes
from pytest_headswap.checks.snapshot import Snapshot
from pytest_headswap.engine import HeadSwapError, NoHeadError
from pytest_headswap.engine.guess import inputs_for
from pytest_headswap.engine.swap import Plan, plan_swap, swap_planned

if TYPE_CHECKING:
    from pytest_headswap.zoo import ModelSpec

_CHEAP = 2**30  # bytes of parameters that may be made real for the sake of train mode
_AFFORDABLE = 2**32  # bytes of values that a model may have of its own before `auto` is content with structure


def build_case(
    zoo: str,
    spec: ModelSpec,
    num_classes: int,
    evidence: str = "auto",
    device: str = "auto",
    *,
    own_memory: bool = False,
) -> Case:
    """Build the model of `spec`, note what it returns, and swap its head.

    Args:
        zoo: name of the zoo, for ids and seeds.
        spec: where the model comes from.
        num_classes: class count of the new head.
        evidence: `structure`: the model is built without memory, where that is possible, as the zoo ships it.
            `numeric`: it gets values, and the smallest input that it takes; large parameters share their memory
            with those of other cases. `auto`: as `numeric`, but for models that need too much memory of their own.
        device: where `device_placement` goes: `auto`, `cpu`, `cuda` or `cuda:N`.
        own_memory: the model as the zoo ships it, with memory of its own for everything, for those who train it.

    Raises:
        NoHeadError: the model has no head, or the zoo refuses it.
        HeadSwapError: the head was not swapped, or the model does not run on its own inputs.
        Exception: whatever the zoo raises while building the model or its inputs.
    """
    if spec.refusal:
        raise NoHeadError("zoo_refused", f"{spec.name}: {spec.refusal}")
    if spec.small is not None and evidence != STRUCTURE and not own_memory:
        spec = spec.small()
    with seeded(zoo, spec.name):
        return _built(zoo, spec, num_classes, evidence, device, own_memory)


def _built(zoo: str, spec: ModelSpec, num_classes: int, evidence: str, device: str, own_memory: bool) -> Case:
    with torch.no_grad():
        if own_memory:
            plan, with_values = _planned(spec, spec.build()), True
        elif evidence == STRUCTURE:
            plan, with_values = on_meta_if_possible(lambda: _planned(spec, spec.build())), False
        else:
            plan, with_values = _with_values(spec, evidence)
    inputs = plan.inputs
    if any(tensor.is_meta for tensor in (*plan.outer.parameters(), *inputs.tensors())):
        with_values = False  # the zoo, or the user, builds it on meta
    else:
        inputs = drawn(inputs, seed_of(zoo, spec.name))
    as_built = Record(plan.outer)
    values = Snapshot(plan.outer) if with_values else None
    # not verified by the engine: the checks look for themselves, and more closely
    swap = swap_planned(plan, num_classes, verified=False)
    return Case(zoo, spec, num_classes, plan.outer, inputs, swap, plan, as_built, values, device)


def _with_values(spec: ModelSpec, evidence: str) -> tuple[Plan, bool]:
    """A model with values, unless `evidence` leaves the choice and it would take too much memory of its own."""
    model = lean_if_possible(spec.build)
    own = sum(parameter.nbytes for parameter in model.parameters() if not is_lean(parameter))
    if evidence != NUMERIC and own > _AFFORDABLE:
        del model
        return on_meta_if_possible(lambda: _planned(spec, spec.build(), small=True)), False
    ARENAS.fill(model)
    return _planned(spec, model, small=True), True


def _planned(spec: ModelSpec, model: nn.Module, small: bool = False) -> Plan:
    """Find the heads of a model, on the smallest image that it takes in both modes where `small`.

    Raises when it does not run and memory may be what is missing: in eval mode, or in train mode where that
    costs little (some models draw masks with NumPy while they train).
    """
    given: Any = spec.example_inputs(model) if spec.example_inputs is not None else None
    inputs = inputs_for(model, given)
    for smaller in sizes(inputs) if small else ():
        with suppress(HeadSwapError):
            plan = plan_swap(model, smaller, spec.head)
            if plan.search.train_error is None:
                return plan
    plan = plan_swap(model, inputs, spec.head)
    if plan.search.train_error is not None and 0 < _meta_bytes(model) <= _CHEAP:
        raise plan.search.train_error
    return plan


def _meta_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters() if parameter.is_meta)
