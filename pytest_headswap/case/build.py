"""Build a case: the model, its inputs, its output shapes before the swap, and the swap."""

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

_CHEAP = 2**30  # bytes of parameters that may be allocated to run train mode
MEMORY = 2**32  # default limit in bytes


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
    """Build the model of `spec`, record its output shapes, and swap its head.

    Args:
        zoo: name of the zoo, for ids and seeds.
        spec: where the model comes from.
        num_classes: class count of the new head.
        evidence: `structure` builds the model as the zoo ships it, without memory if possible. `numeric` gives it
            values and the smallest input that it accepts; large parameters share their memory with other cases.
            `auto` is `numeric`, except for models that need too much memory of their own.
        device: device for `device_placement`: `auto`, `cpu`, `cuda` or `cuda:N`.
        own_memory: build the model as the zoo ships it, with memory of its own for every tensor, so that it can be
            trained.
        memory: limit in bytes for the model's own values and a copy of them, with `auto`.

    Returns:
        The case, with its head swapped.

    Raises:
        NoHeadError: the model has no head, or the zoo excludes it.
        HeadSwapError: the head was not swapped, or the model does not run on its own inputs.
        Exception: any exception that the zoo raises while it builds the model or its inputs.
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
        # The engine need not verify the swap: the checks do so in more detail.
        swap = swap_planned(plan, num_classes, verified=False)
    return Case(zoo, spec, num_classes, plan.outer, inputs, swap, plan, as_built, values, why, device)


def _with_values(spec: ModelSpec, memory: int | None) -> tuple[Plan, str]:
    """Build a model with values and find its heads.

    If the values and a copy of them would take more than `memory` bytes, build it without values, and return the
    reason as well.
    """
    lean = lean_if_possible(spec.build)
    own = 2 * sum(tensor.nbytes for _, tensor in named_tensors(lean.model) if not lean.holds(tensor))
    if memory is not None and own > memory:
        del lean
        why = (
            f"real values would need {own / 2**30:.1f} GiB of separate memory, "
            f"more than the {memory / 2**30:.1f} GiB allowed"
        )
        return on_meta_if_possible(spec.build, partial(_planned, spec, small=True)), why
    ARENAS.fill(lean)
    return _planned(spec, lean.model, small=True), ""


def _planned(spec: ModelSpec, model: nn.Module, small: bool = False) -> Plan:
    """Find the heads of a model. With `small`, use the smallest image that it accepts in both modes.

    Raises:
        HeadSwapError: the model does not run in eval mode, or does not run in train mode on the meta device although
            memory would be cheap. Some models draw masks with NumPy in train mode.
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
    """Find the heads on the first smaller image on which the model runs in both modes, or return None."""
    for smaller in sizes(inputs):
        try:
            plan = plan_swap(model, smaller, spec.head, ways)
        except NoHeadError:
            return None  # decide on the model's own image size
        except HeadSwapError:
            continue
        if plan.search.train_error is None:
            return plan
    return None


def _meta_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters() if parameter.is_meta)
