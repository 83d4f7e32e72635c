"""`onnx`: the swapped model exports to ONNX, and onnxruntime computes the same.

**Promise.** `torch.onnx.export` converts the swapped model in eval mode for its example inputs. onnxruntime runs the
ONNX model on the CPU. It returns the same tensors, with values within 1 % of the largest element.

**Evidence.** A real conversion, and real runs of both; without values the check is skipped (`no_values`), as it is
without onnx, onnxscript and onnxruntime (`not_installed`), and for models of more than 1 GiB (`too_large`). If the
check fails, it runs on the model as built. If that fails too, the result is a skip (`fails_before_swap`). The check
cannot see other input shapes, nor other runtimes.

**A failure means** that the fine-tuned model cannot be deployed as ONNX, although the model could be before the swap: a
head with an operation that has no ONNX form, or whose form computes otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

import torch

from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed, CheckSkipped
from pytest_headswap.case.real_runs import (
    LabelledOutputs,
    RealRun,
    check_and_blame,
    deployed,
    describe_exception,
    fail_if_different,
    skip_if_large,
)
from pytest_headswap.engine import Head, Inputs, flatten_outputs

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TOLERANCE = 1e-2


def onnx(case: Case) -> str:
    """Convert the model, run it with onnxruntime, and compare the outputs."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        command = "pip install 'pytest-headswap[onnx]'"
        raise CheckSkipped("not_installed", f"this check needs {', '.join(missing)}: {command}")
    skip_if_large(case, "the ONNX model would be a copy of it in memory")
    return check_and_blame(case, partial(_check, case), "cannot be exported to ONNX")


def _check(case: Case, heads: Sequence[Head]) -> str:
    expected = dict(flatten_outputs(case.forward()))
    with deployed(case, heads) as inputs:
        try:
            found = dict(zip(expected, _outputs_of_runtime(case, inputs), strict=False))
        except Exception as error:
            raise CheckFailed(f"torch.onnx.export raises {describe_exception(error, case)}") from error
    fail_if_different(RealRun(expected), RealRun(found), "the ONNX model", _TOLERANCE)
    return ""


def _outputs_of_runtime(case: Case, inputs: Inputs) -> Sequence[torch.Tensor]:
    copied, model = inputs.copied(), LabelledOutputs(case.model).eval()
    program = torch.onnx.export(
        model, tuple(inputs.args), kwargs=dict(inputs.kwargs), dynamo=True, verbose=False, external_data=False
    )
    assert program is not None, "without a file, torch returns the program"
    try:
        return program(*copied.args, **copied.kwargs)
    finally:
        program.release()
