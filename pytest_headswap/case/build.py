"""Build a case: the model, its inputs, its output shapes before the swap, and the swap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from pytest_headswap._text import format_bytes
from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import ABSTRACT, NUMERIC
from pytest_headswap.case.options import AUTO, CaseOptions
from pytest_headswap.case.sample_inputs import randomize, seeded, smaller_images, stable_seed
from pytest_headswap.case.skip_init import on_meta_if_possible, skip_init_if_possible
from pytest_headswap.case.structure_snapshot import StructureSnapshot
from pytest_headswap.case.value_snapshot import ValueSnapshot, named_tensors
from pytest_headswap.case.weight_pool import WEIGHT_POOLS
from pytest_headswap.engine import (
    META,
    ZOO_REFUSED,
    HeadSwapError,
    Inputs,
    NoHeadError,
    SwapPlan,
    apply_plan,
    infer_inputs,
    plan_swap,
    read_inputs,
)
from pytest_headswap.engine.pytorch import accelerators, parameters

if TYPE_CHECKING:
    from pytest_headswap.zoo import ModelSpec

T = TypeVar("T")

_MAX_REAL_BYTES = 2**30  # bytes of parameters that may be allocated to run train mode
DEFAULT_TENSOR_BYTES = 2**32  # default limit in bytes


def build_case(
    zoo: str,
    spec: ModelSpec,
    options: CaseOptions,
    *,
    materialize: bool = False,
    tensor_bytes: int = DEFAULT_TENSOR_BYTES,
) -> Case:
    """Build the model of `spec`, record its output shapes, and swap its head.

    Args:
        zoo: name of the zoo, for ids and seeds.
        spec: where the model comes from.
        options: class count, evidence and device of the case. The evidence `abstract` builds the model as the zoo
            ships it, without memory if possible. `numeric` gives it values and the smallest input that it accepts;
            large parameters share their memory with other cases. `auto` is `numeric`, except for models that need
            too much memory of their own.
        materialize: build the model as the zoo ships it, with memory of its own for every tensor, so that it can be
            trained.
        tensor_bytes: limit in bytes for the model's own values and a copy of them, with `auto`.

    Returns:
        The case, with its head swapped.

    Raises:
        NoHeadError: the model has no head, or the zoo excludes it.
        HeadSwapError: the head was not swapped, or the model does not run on its own inputs.
        Exception: any exception that the zoo raises while it builds the model or its inputs.
    """
    evidence, num_classes = options.evidence, options.num_classes
    if spec.skip_reason:
        raise NoHeadError(ZOO_REFUSED, f"{spec.name}: {spec.skip_reason}")
    if options.device not in (AUTO, "cpu"):
        accelerators.prepare_autograd()
    if spec.small_variant is not None and evidence != ABSTRACT and not materialize:
        spec = spec.small_variant()
    with seeded(zoo, spec.name):
        with torch.no_grad():
            if materialize:
                plan, abstract_reason = _plan_for(spec, spec.build()), ""
            elif evidence == ABSTRACT:
                plan, abstract_reason = on_meta_if_possible(spec.build, partial(_plan_for, spec)), ""
            else:
                plan, abstract_reason = _build_with_values(
                    spec,
                    None if evidence == NUMERIC else tensor_bytes,
                    partial(_plan_for, spec, use_smallest_input=True),
                )
        inputs, abstract_reason = _randomized(zoo, spec, plan.outer, plan.inputs, evidence, abstract_reason)
        structure = StructureSnapshot(plan.outer)
        values = None if abstract_reason or evidence == ABSTRACT else ValueSnapshot(plan.outer)
        # The engine need not verify the swap: the checks do so in more detail.
        swap = apply_plan(plan, num_classes, verify=False)
    return Case(
        zoo, spec, num_classes, plan.outer, inputs, swap, plan, structure, values, abstract_reason, options.device
    )


def build_case_without_head(
    zoo: str, spec: ModelSpec, options: CaseOptions, no_head: NoHeadError, *, tensor_bytes: int = DEFAULT_TENSOR_BYTES
) -> Case:
    """Build the model of `spec`, which has no head, for checks that need none. The arguments are as for `build_case`.

    Raises:
        HeadSwapError: the inputs cannot be inferred.
        Exception: any exception that the zoo raises while it builds the model or its inputs.
    """

    def with_inputs(model: nn.Module) -> tuple[nn.Module, Inputs]:
        return model, _given_inputs(spec, model) or infer_inputs(model)

    evidence = options.evidence
    with seeded(zoo, spec.name), torch.no_grad():
        if evidence == ABSTRACT:
            (model, inputs), abstract_reason = on_meta_if_possible(spec.build, with_inputs), ""
        else:
            limit = None if evidence == NUMERIC else tensor_bytes
            (model, inputs), abstract_reason = _build_with_values(spec, limit, with_inputs)
        inputs, abstract_reason = _randomized(zoo, spec, model, inputs, evidence, abstract_reason)
        values = None if abstract_reason or evidence == ABSTRACT else ValueSnapshot(model)
        return Case(
            *(zoo, spec, options.num_classes, model, inputs, None, None, StructureSnapshot(model), values),
            abstract_reason=abstract_reason,
            device=options.device,
            no_head=no_head,
        )


def _randomized(
    zoo: str, spec: ModelSpec, model: nn.Module, inputs: Inputs, evidence: str, abstract_reason: str
) -> tuple[Inputs, str]:
    """Return random inputs if the model has values, and why it has none although the evidence allows them."""
    if any(tensor.is_meta for tensor in parameters(model)):
        return inputs, abstract_reason or ("the model is built on the meta device" if evidence != ABSTRACT else "")
    device = next((parameter.device for parameter in parameters(model)), torch.device("cpu"))
    return randomize(inputs.with_values(device), stable_seed(zoo, spec.name)), abstract_reason


def _given_inputs(spec: ModelSpec, model: nn.Module) -> Inputs | None:
    return read_inputs(spec.example_inputs(model)) if spec.example_inputs is not None else None


def _build_with_values(spec: ModelSpec, tensor_bytes: int | None, then: Callable[[nn.Module], T]) -> tuple[T, str]:
    """Return `then(model)` for a model built with values, and an empty reason.

    If the values and a copy of them would take more than `tensor_bytes` bytes, build it without values, and return the
    reason as well.
    """
    skip_init = skip_init_if_possible(spec.build)
    own_bytes = 2 * sum(
        tensor.nbytes for _, tensor in named_tensors(skip_init.model) if not skip_init.is_uninitialized(tensor)
    )
    if tensor_bytes is not None and own_bytes > tensor_bytes:
        del skip_init
        abstract_reason = (
            f"real values would need {format_bytes(own_bytes)} of separate memory, "
            f"more than the {format_bytes(tensor_bytes)} allowed"
        )
        return on_meta_if_possible(spec.build, then), abstract_reason
    WEIGHT_POOLS.fill(skip_init)
    return then(skip_init.model), ""


def _plan_for(spec: ModelSpec, model: nn.Module, use_smallest_input: bool = False) -> SwapPlan:
    """Find the heads of a model. With `use_smallest_input`, use the smallest image that it accepts in both modes.

    Raises:
        HeadSwapError: the model does not run in eval mode, or does not run in train mode on the meta device although
            memory would be cheap. Some models draw masks with NumPy in train mode.
    """
    inputs = _given_inputs(spec, model) or infer_inputs(model)
    plan = _plan_on_smallest_input(spec, model, inputs, (META,)) if use_smallest_input else None
    if plan is not None:
        return plan
    plan = plan_swap(model, inputs, spec.head)
    tensor_kind = plan.search_result.tensor_kinds[False]
    if use_smallest_input and tensor_kind != META:
        return _plan_on_smallest_input(spec, model, inputs, (tensor_kind,)) or plan
    if plan.search_result.train_error is not None and 0 < _meta_bytes(model) <= _MAX_REAL_BYTES:
        raise plan.search_result.train_error
    return plan


def _plan_on_smallest_input(
    spec: ModelSpec, model: nn.Module, inputs: Inputs, tensor_kinds: Sequence[str]
) -> SwapPlan | None:
    """Find the heads on the first smaller image on which the model runs in both modes, or return None."""
    for smaller in smaller_images(inputs):
        try:
            plan = plan_swap(model, smaller, spec.head, tensor_kinds)
        except NoHeadError:
            return None  # decide on the model's own image size
        except HeadSwapError:
            continue
        if plan.search_result.train_error is None:
            return plan
    return None


def _meta_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters() if parameter.is_meta)
