"""`native_parity`: the swapped model has the same state_dict layout as a model that the zoo builds.

**Promise.** `state_dict()` has the same keys and shapes as a model that the zoo built with the new class count from
the start.

**Evidence.** Names and shapes of two models on the meta device. The zoo's own code builds the native model, without
the engine.

**A failure means** that a checkpoint of the swapped model cannot be loaded into a natively built one, or the other way
round. A layer was renamed, wrapped, left at the old width, or added.
"""

from __future__ import annotations

from torch import nn

from pytest_headswap._text import join_first
from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed


def native_parity(case: Case) -> str:
    """Compare with the native model; skip if the zoo cannot build one."""
    native = _state_shapes(case.native)
    swapped = _state_shapes(case.model)
    missing = [f"{key} {native[key]}" for key in native if key not in swapped]
    unexpected = [f"{key} {swapped[key]}" for key in swapped if key not in native]
    different = [
        f"{key} is {swapped[key]} instead of {shape}"
        for key, shape in native.items()
        if key in swapped and swapped[key] != shape
    ]
    problems = [
        f"{title}: {join_first(entries)}"
        for title, entries in (("missing", missing), ("unexpected", unexpected), ("wrong shape", different))
        if entries
    ]
    if problems:
        raise CheckFailed(
            f"the state_dict differs from that of {case.spec.name} built with {case.num_classes} classes; "
            + "; ".join(problems)
        )
    return ""


def _state_shapes(model: nn.Module) -> dict[str, tuple[int, ...] | None]:
    # values from get_extra_state have no shape
    return {key: tuple(value.shape) if hasattr(value, "shape") else None for key, value in model.state_dict().items()}
