"""`export`: `torch.export` captures the swapped model, and the exported program computes the same.

**Promise.** `torch.export.export` (non-strict) captures the swapped model in eval mode for its example inputs. The
exported program runs without the model, and its outputs have the same labels, shapes and dtypes, and the same values up
to rounding. Outputs that torch cannot take apart, such as a cache, are taken apart into their tensors first.

**Evidence.** A real export, and real runs of both; without values the check is skipped (`no_values`). If the check
fails, it runs on the model as built. If that fails too, the result is a skip (`fails_before_swap`) that quotes the
line of forward. The check cannot see other input shapes, train mode, nor what `strict=True` would refuse.

**A failure means** that the fine-tuned model cannot be deployed through `torch.export`, although the model could be
before the swap: a head whose forward depends on the values of its input, or computes otherwise under export.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.case.real_runs import (
    LabelledOutputs,
    RealRun,
    check_and_blame,
    deployed,
    describe_exception,
    fail_if_different,
)
from pytest_headswap.engine import Head, Inputs, flatten_outputs


def export(case: Case) -> str:
    """Export the model, run the program, and compare the outputs."""
    return check_and_blame(case, partial(_check, case), "cannot be exported")


def _check(case: Case, heads: Sequence[Head]) -> str:
    expected = RealRun(dict(flatten_outputs(case.forward())))
    with deployed(case, heads) as inputs:
        try:
            found = RealRun(_exported(case, inputs))
        except Exception as error:
            raise CheckFailed(f"torch.export raises {describe_exception(error, case)}") from error
        fail_if_different(expected, found, "the exported program")
    return ""


def _exported(case: Case, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Return the outputs of the exported program by label."""
    copied, model = inputs.copied(), LabelledOutputs(case.model).eval()
    program = torch.export.export(model, tuple(inputs.args), dict(inputs.kwargs), strict=False)
    outputs: dict[str, torch.Tensor] = program.module()(*copied.args, **copied.kwargs)
    return outputs
