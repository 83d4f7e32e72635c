"""`hub_round_trip`: the library of the model saves the swapped model, and loads it again without this package.

**Promise.** The swapped model is saved and loaded the way its library does it, such as by `save_pretrained` and
`from_pretrained`. Nothing is missing, unexpected or newly drawn, and the loaded model returns the same outputs.

**Evidence.** A real file, and real runs of both models in eval mode; without values the check is skipped (`no_values`).
The zoo says how its library saves and loads (`ModelSpec.save_and_load`). Without that, the `state_dict` is saved and
loaded into a model that the zoo builds with the new class count; if it builds none, the check is skipped (`no_native`).
Models of more than 1 GiB are skipped (`too_large`). If the check fails, it runs on the model as built. If that fails
too, the result is a skip (`fails_before_swap`). The check uploads nothing, and cannot see what a hub does to the files.

**A failure means** that colleagues cannot load the fine-tuned model with the library alone: a class count in the
configuration that did not follow, a head under another key, or a tensor that the library draws anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed, CheckSkipped
from pytest_headswap.case.real_runs import (
    RealRun,
    check_and_blame,
    describe_exception,
    fail_if_different,
    quiet_tools,
    skip_if_large,
)
from pytest_headswap.case.skip_init import skip_init_if_possible
from pytest_headswap.engine import TENSOR_KINDS, Head, StandIns, flatten_outputs, substituted
from pytest_headswap.zoo.class_count import build_with_class_count

_REAL = TENSOR_KINDS[-1]


def hub_round_trip(case: Case) -> str:
    """Save and load the model with its library, and compare the outputs."""
    if case.spec.save_and_load is None and case.spec.build_native is None:
        raise CheckSkipped(
            "no_native",
            f"the zoo {case.zoo} defines neither how to save and load {case.spec.name}, nor how to build it natively",
        )
    skip_if_large(case, "a loaded model would be a copy of it in memory")
    return check_and_blame(case, partial(_check, case), "cannot be saved and loaded by its library")


def _check(case: Case, heads: Sequence[Head]) -> str:
    expected = RealRun(dict(flatten_outputs(case.forward())))
    try:
        loaded = _loaded(case, is_swapped=heads is case.swap.heads)
    except Exception as error:
        raise CheckFailed(f"saving or loading raises {describe_exception(error, case)}") from error
    if loaded is case.model:
        return ""  # the user's own module, as built: there is no other one to load into
    loaded.eval()
    inputs = case.inputs.copied()
    with case.seeded("forward"), torch.no_grad():
        try:
            found = RealRun(dict(flatten_outputs(loaded(*inputs.args, **inputs.kwargs))))
        except Exception as error:
            raise CheckFailed(f"the loaded model raises {describe_exception(error, case)}") from error
    fail_if_different(expected, found, "the loaded model")
    return ""


def _loaded(case: Case, *, is_swapped: bool) -> nn.Module:
    """Return a new model with the weights of the model, by way of a file."""
    spec = case.spec
    # in memory of their own: weights of the pool overlap, which libraries take for tied weights
    with tempfile.TemporaryDirectory() as folder, quiet_tools():
        with substituted(case.model, StandIns(_REAL)):
            if spec.save_and_load is not None:
                return spec.save_and_load(case.model, Path(folder))
            torch.save(case.model.state_dict(), Path(folder, "state.pt"))
        assert spec.build_native is not None
        native = partial(build_with_class_count, spec.build_native, case.num_classes)
        model = skip_init_if_possible(native if is_swapped else spec.build).model
        model.load_state_dict(torch.load(Path(folder, "state.pt"), weights_only=True))
        return model
