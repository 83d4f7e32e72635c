"""`compile`: the swapped model computes and trains alike under `torch.compile`.

**Promise.** `torch.compile` compiles the swapped model in eval mode, with all but the new head frozen. The compiled
model returns the same outputs up to rounding, and a loss over the logits gives the same gradients to the new head.

**Evidence.** A real compilation, and real runs of both; without values the check is skipped (`no_values`). The backend
is inductor if there is a C++ compiler, and otherwise `aot_eager`, which captures the graphs but generates no code: the
evidence names it. Generated code stays in torch's own cache. If the check fails, it runs on the model as built. If that
fails too, the result is a skip (`fails_before_swap`). Code that torch cannot capture runs uncompiled, as it does for
users. The check cannot see other input shapes, nor train mode, whose random numbers differ under inductor. It takes
minutes for a large model: raise `--headswap-timeout` if need be.

**A failure means** that compiling the fine-tuned model raises or changes its results, although the model compiled
before the swap: a head with an operation that a backend gets wrong, or a new head that the compiled code does not read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any

import torch

from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.case.real_runs import (
    RealRun,
    check_and_blame,
    describe_exception,
    fail_if_different,
    forward_and_backward,
    head_parameters,
    quiet_tools,
    undone,
)
from pytest_headswap.engine import Head
from pytest_headswap.engine.pytorch import freeze_all_but


def compile_model(case: Case) -> str:
    """Compile the model, run it forward and backward, and compare outputs and gradients."""
    return check_and_blame(case, partial(_check, case), "cannot be compiled")


def compile_evidence(case: Case) -> str:
    """Return the evidence of the case, and the backend."""
    return f"{case.evidence}, {_backend()}"


def _check(case: Case, heads: Sequence[Head]) -> str:
    expected = _run(case, heads)
    try:
        found = _run(case, heads, _compiled)
    except Exception as error:
        raise CheckFailed(f"compiled with {_backend()}, {describe_exception(error, case)}") from error
    fail_if_different(expected, found, f"the model compiled with {_backend()}")
    return ""


def _run(case: Case, heads: Sequence[Head], wrap: Callable[[Any], Any] = lambda model: model) -> RealRun:
    with undone(case, heads), _fresh_compiler():
        freeze_all_but(case.model, head_parameters(case, heads).values())
        return forward_and_backward(case, heads, wrap(case.model))


def _compiled(model: Any) -> Any:
    return torch.compile(model, backend=_backend())


@contextmanager
def _fresh_compiler() -> Iterator[None]:
    """Forget earlier compilations before and after the block, and start no compiler processes that outlive it."""
    import torch._dynamo
    import torch._inductor.config

    with ExitStack() as stack:
        stack.callback(torch._dynamo.reset)
        stack.enter_context(torch._inductor.config.patch(compile_threads=1))
        stack.enter_context(quiet_tools())
        torch._dynamo.reset()
        yield


@cache
def _backend() -> str:
    import torch._inductor.config

    compilers = torch._inductor.config.cpp.cxx  # None stands for one that inductor downloads
    return "inductor" if any(name and shutil.which(name) for name in compilers) else "aot_eager"
