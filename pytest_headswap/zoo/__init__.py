"""Where models come from. Importing this room imports neither torch nor any library of models."""

from pytest_headswap.zoo.model import ModelSpec, Zoo, ZooError
from pytest_headswap.zoo.registry import load_zoo, register, select_models, zoo_names

__all__ = ["ModelSpec", "Zoo", "ZooError", "load_zoo", "register", "select_models", "zoo_names"]
