"""Models leave a process that cannot be forked again: for a spawned one or, with a warning, for that of pytest."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

import pytest

from pytest_headswap.results import Result

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="models have a process of their own on Linux alone")

Journal = Callable[..., dict[str, Result]]

ZOO = "--headswap-zoo=testzoo"
UNPROTECTED = "*headswap: models run in the pytest process, without limits*"

# What leaves autograd with threads, as its first backward does where there is a GPU: no copy can run backward any more.
THREADS = """
import os
import torch

class Again(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, depth):
        ctx.depth = depth
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if ctx.depth:
            run_backward(ctx.depth - 1)
        return gradient, None

def run_backward(depth):
    with torch.enable_grad():
        Again.apply(torch.ones(1, requires_grad=True), depth).sum().backward()

def test_of_the_project_that_starts_threads_of_autograd():
    run_backward(70)
    assert len(os.listdir("/proc/self/task")) > 1
"""

DYING = """
import signal

def pytest_headswap_checks(config):
    def dying(case):
        if case.spec.name == "killer":
            os.kill(os.getpid(), signal.SIGKILL)
    return {"dying": dying, "last": lambda case: None}

SPECS = {name: dict(build=Net) for name in ("alpha", "killer", "omega")}
"""


def test_threads_started_by_the_projects_tests_do_not_matter(
    project: pytest.Pytester, extend_conftest: Callable[[str], None], journal: Journal
) -> None:
    extend_conftest("SPECS = {'alpha': dict(build=Net), 'beta': dict(build=Net)}")
    project.makepyfile(test_own=THREADS)
    done = project.runpytest_subprocess(ZOO, "--headswap-checks=output_shape,gradient_flow", "test_own.py")
    done.assert_outcomes(passed=5)
    done.stdout.no_fnmatch_line(UNPROTECTED)
    assert len(journal()) == 4


def test_no_model_is_blamed_if_a_child_process_cannot_be_forked_again(
    project: pytest.Pytester, extend_conftest: Callable[[str], None], journal: Journal
) -> None:
    extend_conftest(DYING)
    project.makepyfile(test_own=THREADS)
    done = project.runpytest_subprocess(ZOO, "--headswap-checks=dying,last,gradient_flow", "test_own.py")
    done.stdout.no_fnmatch_line(UNPROTECTED)
    results = journal().values()
    assert Counter((result.model, result.outcome) for result in results) == {
        ("alpha", "passed"): 3,
        ("killer", "passed"): 2,
        ("killer", "crashed"): 1,
        ("omega", "passed"): 3,
    }


def test_no_model_is_blamed_if_a_child_process_cannot_be_replaced(
    project: pytest.Pytester, extend_conftest: Callable[[str], None], journal: Journal
) -> None:
    extend_conftest(DYING)
    project.makepyfile(test_own=THREADS)
    flags = ("--headswap-checks=dying,last,gradient_flow", "--headswap-isolation=fork")
    done = project.runpytest_subprocess(ZOO, *flags, "test_own.py")
    done.stdout.fnmatch_lines([f"{UNPROTECTED}fork-based multiprocessing*"])
    results = journal().values()
    assert Counter((result.model, result.outcome) for result in results) == {
        ("alpha", "passed"): 3,
        ("killer", "passed"): 1,
        ("killer", "crashed"): 2,
        ("omega", "passed"): 3,
    }
    died = "the process of the model was killed by SIGKILL in dying; the kernel does this when memory runs out"
    assert [result.message for result in results if result.model == "killer"] == ["", died, f"not run: {died}"]
