"""`native_parity`: the swapped model has the state_dict that the zoo itself would give it.

**Promise.** The keys of `state_dict()` and the shape behind each are those of a model which the zoo built
with the new class count from the start.

**Evidence.** Names and shapes of two models on the meta device. The native model is built by the zoo's own
code; nothing of the engine takes part in it.

**A failure means** that a checkpoint of the swapped model cannot be loaded into a natively built one (or the
other way round): a layer was renamed, wrapped, left at the old width, or added where the zoo has none.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from pytest_headswap.checks.case import Case, on_meta_if_possible
from pytest_headswap.checks.finding import CheckFailed, CheckSkipped

_SHOWN = 5


def native_parity(case: Case) -> str:
    """Compare with the native model; skipped where the zoo cannot build one."""
    native = _state_shapes(_build_native(case))
    swapped = _state_shapes(case.model)
    missing = [f"{key} {native[key]}" for key in native if key not in swapped]
    unexpected = [f"{key} {swapped[key]}" for key in swapped if key not in native]
    different = [
        f"{key} is {swapped[key]}, natively {shape}"
        for key, shape in native.items()
        if key in swapped and swapped[key] != shape
    ]
    problems = [
        f"{title}: {_bounded(entries)}"
        for title, entries in (("missing", missing), ("unexpected", unexpected), ("wrong shape", different))
        if entries
    ]
    if problems:
        raise CheckFailed(
            f"the state_dict differs from that of {case.spec.name} built with {case.num_classes} classes; "
            + "; ".join(problems)
        )
    return ""


def _build_native(case: Case) -> nn.Module:
    if case.spec.native is None:
        raise CheckSkipped("no_native", f"the zoo {case.zoo} does not say how {case.spec.name} is built natively")
    try:
        return on_meta_if_possible(partial(case.spec.native, case.num_classes))
    except Exception as error:
        raise CheckSkipped(
            "no_native",
            f"the zoo {case.zoo} cannot build {case.spec.name} with {case.num_classes} classes: "
            f"{type(error).__name__}: {error}",
        ) from error


def _state_shapes(model: nn.Module) -> dict[str, tuple[int, ...] | None]:
    # what a module adds through get_extra_state has no shape
    return {key: tuple(value.shape) if hasattr(value, "shape") else None for key, value in model.state_dict().items()}


def _bounded(entries: list[str]) -> str:
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(entries[:_SHOWN]) + more
