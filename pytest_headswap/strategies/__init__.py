"""Hypothesis strategies that generate models with heads in known places, to test code that finds heads.

from hypothesis import given
from pytest_headswap.strategies import planted_models

@given(planted_models())
def test_finder(planted):
    assert my_finder(planted.model, planted.example_inputs) == planted.heads
"""

from pytest_headswap.strategies.planted import PlantedModel, planted_models

__all__ = ["PlantedModel", "planted_models"]
