"""Hide GPUs, so that the tests give the same results on every machine. `-m cuda` and `-m device` need one."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import hypothesis
import pytest

from pytest_headswap.zoo import registry

# no deadline, because machines differ; the same examples in every run
hypothesis.settings.register_profile("headswap", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("headswap")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from torch, in this process and in the processes that it starts.

    Raises:
        pytest.UsageError: the tests that need a GPU are to run without one. Skipped tests would look like a success.
    """
    if config.option.markexpr not in ("cuda", "device"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if config.option.markexpr == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise pytest.UsageError("-m cuda: torch finds no CUDA device here")


@pytest.fixture(autouse=True, scope="module")
def _garbage_of_one_module() -> Iterator[None]:
    """Exempt what a module leaves behind: a collection would scan the objects of thousands of tests, for seconds."""
    yield
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let Python free the objects of nanobind, which prints a line for each that is never collected."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _zoos_of_one_test() -> Iterator[None]:
    """Remove the zoos that a test or its inner pytest run registers."""
    before = dict(registry._ENTRIES)
    yield
    registry._ENTRIES.clear()
    registry._ENTRIES.update(before)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests that need a GPU if there is none."""
    if item.get_closest_marker("cuda") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")
