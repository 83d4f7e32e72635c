"""The library's own tests. The conformance checks come from pyproject.toml."""

from __future__ import annotations

import pytest
import tinynets
import torch


def test_models_are_listed_by_name() -> None:
    assert tinynets.list_models() == ["tiny_deit", "tiny_mlp", "tiny_resnet", "tiny_squeeze"]


@pytest.mark.parametrize("name", tinynets.list_models())
def test_model_returns_the_requested_number_of_classes(name: str) -> None:
    inputs = torch.randn(2, 16) if name == "tiny_mlp" else torch.randn(2, 3, 32, 32)
    assert tinynets.create_model(name, num_classes=3).eval()(inputs).shape == (2, 3)
