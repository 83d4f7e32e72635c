"""A fixture that builds cases of a model into which faults can be planted."""

from __future__ import annotations

import pytest

from tests.faulty_net import make_case

__all__ = ["make_case"]


@pytest.fixture(autouse=True)
def _quick_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without generating code, which takes seconds for each model."""
    if "slow" not in request.keywords:
        monkeypatch.setattr("pytest_headswap.checks.compile._backend", lambda: "aot_eager")
