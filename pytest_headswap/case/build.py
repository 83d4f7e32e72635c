"""Build a case: a model, inputs for it, what it does before the swap, and the swap."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import NUMERIC, STRUCTURE
from pytest_headswap.case.sample_inputs import drawn, seed_of, seeded, sizes
from pytest_headswap.case.skip_init import lean_if_possible, on_meta_if_possible
from pytest_headswap.case.structure_snapshot import Record
from pytest_headswap.case.value_snapshot import Snapshot, named_tensors
from pytest_headswap.case.weight_pool import ARENAS
from pytest_headswap.engine import HeadSwapError, NoHeadError
from pytest_headswap.engine.abstract.infer_inputs import inputs_for
from pytest_headswap.engine.abstract.stand_ins import META
from pytest_headswap.engine.errors import ZOO_REFUSED
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.modules import parameters
from pytest_headswap.engine.swapping.plan import Plan, plan_swap
from pytest_headswap.engine.swapping.swap import swap_planned

if TYPE_CHECKING:
    from pytest_headswap.zoo import ModelSpec

_CHEAP = 2**30  # bytes of parameters that may be made real for the sake of train mode
MEMORY = 2**32  # bytes, where nothing else is said


def build_case(
    zoo: str,
    spec: ModelSpec,
    num_classes: int,
    evidence: str = "auto",
    device: str = "auto",
    *,
    own_memory: bool = False,
    memory: int = MEMORY,
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
        memory: bytes that `auto` may use for values of the model's own, and for what they are compared with.

    Raises:
        NoHeadError: the model has no head, or the zoo refuses it.
        HeadSwapError: the head was not swapped, or the model does not run on its own inputs.
        Exception: whatever the zoo raises while building the model or its inputs.
    """
    if spec.refusal:
        raise NoHeadError(ZOO_REFUSED, f"{spec.name}: {spec.refusal}")
    if spec.small is not None and evidence != STRUCTURE and not own_memory:
        spec = spec.small()
    with seeded(zoo, spec.name):
        with torch.no_grad():
            if own_memory:
                plan, why = _planned(spec, spec.build()), ""
            elif evidence == STRUCTURE:
                plan, why = on_meta_if_possible(spec.build, partial(_planned, spec)), ""
            else:
                plan, why = _with_values(spec, None if evidence == NUMERIC else memory)
        inputs = plan.inputs
        if any(tensor.is_meta for tensor in (*parameters(plan.outer), *inputs.tensors())):
            why = why or ("the model is built on the meta device" if evidence != STRUCTURE else "")
        else:
            inputs = drawn(inputs, seed_of(zoo, spec.name))
        as_built = Record(plan.outer)
        values = None if why or evidence == STRUCTURE else Snapshot(plan.outer)
        # not verified by the engine: the checks look for themselves, and more closely
        swap = swap_planned(plan, num_classes, verified=False)
    return Case(zoo, spec, num_classes, plan.outer, inputs, swap, plan, as_built, values, why, device)


def _with_values(spec: ModelSpec, memory: int | None) -> tuple[Plan, str]:
    """A model with values; or without, and why, where they and a copy of them would take more than `memory` bytes."""
    lean = lean_if_possible(spec.build)
    own = 2 * sum(tensor.nbytes for _, tensor in named_tensors(lean.model) if not lean.holds(tensor))
    if memory is not None and own > memory:
        del lean
        why = f"numbers would take {own / 2**30:.1f} GiB of its own, more than the {memory / 2**30:.1f} GiB allowed"
        return on_meta_if_possible(spec.build, partial(_planned, spec, small=True)), why
    ARENAS.fill(lean)
    return _planned(spec, lean.model, small=True), ""


def _planned(spec: ModelSpec, model: nn.Module, small: bool = False) -> Plan:
    """Find the heads of a model, on the smallest image that it takes in both modes where `small`.

    Raises when it does not run and memory may be what is missing: in eval mode, or in train mode where that
    costs little (some models draw masks with NumPy while they train).
    """
    given: Any = spec.example_inputs(model) if spec.example_inputs is not None else None
    inputs = inputs_for(model, given)
    plan = _on_smallest(spec, model, inputs, (META,)) if small else None
    if plan is not None:
        return plan
    plan = plan_swap(model, inputs, spec.head)
    way = plan.search.ways[False]
    if small and way != META:
        return _on_smallest(spec, model, inputs, (way,)) or plan
    if plan.search.train_error is not None and 0 < _meta_bytes(model) <= _CHEAP:
        raise plan.search.train_error
    return plan


def _on_smallest(spec: ModelSpec, model: nn.Module, inputs: Inputs, ways: Sequence[str]) -> Plan | None:
    """The heads of a model on a smaller image than its own, the first on which it runs so in both modes, if any."""
    for smaller in sizes(inputs):
        try:
            plan = plan_swap(model, smaller, spec.head, ways)
        except NoHeadError:
            return None  # its own image has the last word
        except HeadSwapError:
            continue
        if plan.search.train_error is None:
            return plan
    return None


def _meta_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters() if parameter.is_meta)
