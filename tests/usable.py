"""Skip tests whose library cannot be used with the installed torch."""

from __future__ import annotations

from typing import Any

import pytest


def usable_transformers() -> Any:
    """Return the package `transformers`. Skip the test if it is missing, or needs a newer torch."""
    transformers: Any = pytest.importorskip("transformers")
    if not transformers.is_torch_available():
        pytest.skip("the installed transformers needs a newer torch", allow_module_level=True)
    return transformers
