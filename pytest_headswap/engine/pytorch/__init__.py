"""Plain names for parts of torch that are private, awkward or slow. Other folders import only the names below."""

from pytest_headswap.engine.pytorch import accelerators
from pytest_headswap.engine.pytorch.internals import (
    DispatchMode,
    gradient_leaves,
    is_fake_tensor_limitation,
    is_view,
    map_tensors,
    mutated_tensors,
    op_name,
    returns_argument,
    seed_all,
    tensors_of_call,
)
from pytest_headswap.engine.pytorch.modules import (
    freeze_all_but,
    named_buffers,
    named_modules,
    named_parameters,
    owner_path,
    parameters,
)
from pytest_headswap.engine.pytorch.saved_state import ModuleState, RandomState
from pytest_headswap.engine.pytorch.source_lines import place_of_error

__all__ = [
    "DispatchMode",
    "ModuleState",
    "RandomState",
    "accelerators",
    "freeze_all_but",
    "gradient_leaves",
    "is_fake_tensor_limitation",
    "is_view",
    "map_tensors",
    "mutated_tensors",
    "named_buffers",
    "named_modules",
    "named_parameters",
    "op_name",
    "owner_path",
    "parameters",
    "place_of_error",
    "returns_argument",
    "seed_all",
    "tensors_of_call",
]
