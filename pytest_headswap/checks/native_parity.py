"""`native_parity`: the swapped model has the same state_dict layout as a model that the zoo builds.

**Promise.** `state_dict()` has the same keys and shapes as a model that the zoo built with the new class count from
the start.

**Evidence.** Names and shapes. The zoo's own code builds the native model, without the engine, on the meta device. If
that one differs, it is built again in memory, because some layers register other tensors on the meta device.

**A failure means** that a checkpoint of the swapped model cannot be loaded into a natively built one, or the other way
round. A layer was renamed, wrapped, left at the old width, or added.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from pytest_headswap._text import join_first
from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.case.skip_init import skip_init_if_possible
from pytest_headswap.zoo.class_count import build_with_class_count

_MAX_BYTES = 2**31  # of the parameters of a model that is built again


def native_parity(case: Case) -> str:
    """Compare with the native model; skip if the zoo cannot build one."""
    problems = _differences(case, case.native)
    if problems and (problems := _differences_in_memory(case, problems)):
        raise CheckFailed(
            f"the state_dict differs from that of {case.spec.name} built with {case.num_classes} classes; "
            + "; ".join(problems)
        )
    return ""


def _differences(case: Case, native_model: nn.Module) -> list[str]:
    native, swapped = _state_shapes(native_model), _state_shapes(case.model)
    missing = [f"{key} {native[key]}" for key in native if key not in swapped]
    unexpected = [f"{key} {swapped[key]}" for key in swapped if key not in native]
    different = [
        f"{key} is {swapped[key]} instead of {shape}"
        for key, shape in native.items()
        if key in swapped and swapped[key] != shape
    ]
    return [
        f"{title}: {join_first(entries)}"
        for title, entries in (("missing", missing), ("unexpected", unexpected), ("wrong shape", different))
        if entries
    ]


def _differences_in_memory(case: Case, on_meta: list[str]) -> list[str]:
    """Return how a native model that is not on the meta device differs, or the given differences if there is none."""
    assert case.spec.build_native is not None, "there is a native model"
    if sum(parameter.nbytes for parameter in case.native.parameters()) > _MAX_BYTES:
        return on_meta
    try:
        native = skip_init_if_possible(partial(build_with_class_count, case.spec.build_native, case.num_classes)).model
    except Exception:  # noqa: BLE001 - the model on the meta device is then all there is to compare with
        return on_meta
    return _differences(case, native)


def _state_shapes(model: nn.Module) -> dict[str, tuple[int, ...] | None]:
    # values from get_extra_state have no shape
    return {key: tuple(value.shape) if hasattr(value, "shape") else None for key, value in model.state_dict().items()}
