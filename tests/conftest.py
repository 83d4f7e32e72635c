"""The tests see no GPU, so that they say the same on every machine; `pytest -m cuda` runs those that need one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_headswap.zoo import registry


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from torch, which looks for them when it is first asked; from processes that are started, too."""
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def _zoos_of_one_test() -> Iterator[None]:
    """A zoo that a test registers, or a project inside of one does, is gone after it."""
    before = dict(registry._ENTRIES)
    yield
    registry._ENTRIES.clear()
    registry._ENTRIES.update(before)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without a GPU there is nothing to be said."""
    if item.get_closest_marker("cuda") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")
