"""The zoos that models come from. Importing this package imports neither torch nor any model library."""

from pytest_headswap.zoo.registry import load_zoo, register, select_models, zoo_names
from pytest_headswap.zoo.spec import ModelSpec, Zoo, ZooError

__all__ = ["ModelSpec", "Zoo", "ZooError", "load_zoo", "register", "select_models", "zoo_names"]
