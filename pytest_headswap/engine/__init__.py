"""Find the classification head of a PyTorch model from its data flow, swap it, and undo the swap.

Other folders of the package import only the names below, and those of `engine.pytorch`.
"""

from pytest_headswap.engine.abstract.devices import (
    AliasStandIns,
    on_fake_device,
    on_meta_device,
    on_real_device,
    reject_cpu_tensors,
)
from pytest_headswap.engine.abstract.infer_inputs import infer_inputs
from pytest_headswap.engine.abstract.meta_cache import MetaInitContext, cached_meta_op
from pytest_headswap.engine.abstract.run import AbstractRun, abstract_run, meta_run_with_device_checks
from pytest_headswap.engine.abstract.simulated_move import code_names_devices, move_in_simulation
from pytest_headswap.engine.abstract.stand_ins import (
    META,
    TENSOR_KINDS,
    StandIns,
    preserve_global_state,
    substituted,
)
from pytest_headswap.engine.abstract.written_state import WrittenState
from pytest_headswap.engine.dataflow.graph import Graph
from pytest_headswap.engine.dataflow.recorder import record_with_device_checks
from pytest_headswap.engine.detection.search import detect_heads, detect_heads_in
from pytest_headswap.engine.detection.search_result import SearchResult
from pytest_headswap.engine.detection.unregistered import place_of_tensor
from pytest_headswap.engine.errors import REASONS, ZOO_REFUSED, HeadSwapError, HeadSwapWarning, NoHeadError
from pytest_headswap.engine.freezing.assert_frozen import assert_frozen
from pytest_headswap.engine.freezing.batch_mixing import rows_are_samples
from pytest_headswap.engine.freezing.features import Features, extract_features
from pytest_headswap.engine.freezing.freeze import freeze_backbone
from pytest_headswap.engine.freezing.frozen_backbone import FrozenBackbone
from pytest_headswap.engine.freezing.head_calls import record_head_calls
from pytest_headswap.engine.freezing.verify import UNVERIFIED_SAMPLES
from pytest_headswap.engine.pytorch.inputs import Inputs, read_inputs
from pytest_headswap.engine.pytorch.outputs import flatten_outputs
from pytest_headswap.engine.swapping.checkpoint import LoadedCheckpoint, load_checkpoint
from pytest_headswap.engine.swapping.plan import SwapPlan, plan_swap
from pytest_headswap.engine.swapping.stored_numbers import places_of, whole_number
from pytest_headswap.engine.swapping.swap import Swap
from pytest_headswap.engine.swapping.swap_head import apply_plan, find_heads, swap_head
from pytest_headswap.head import Head, Heads, Rejected

# Public API
__all__ = [
    "REASONS",
    "Features",
    "FrozenBackbone",
    "Head",
    "HeadSwapError",
    "HeadSwapWarning",
    "Heads",
    "LoadedCheckpoint",
    "NoHeadError",
    "Rejected",
    "Swap",
    "assert_frozen",
    "extract_features",
    "find_heads",
    "freeze_backbone",
    "load_checkpoint",
    "swap_head",
]

# For the zoos, cases and checks of this package. These names may change in any version.
__all__ += [
    "META",
    "TENSOR_KINDS",
    "UNVERIFIED_SAMPLES",
    "ZOO_REFUSED",
    "AbstractRun",
    "AliasStandIns",
    "Graph",
    "Inputs",
    "MetaInitContext",
    "SearchResult",
    "StandIns",
    "SwapPlan",
    "WrittenState",
    "abstract_run",
    "apply_plan",
    "cached_meta_op",
    "code_names_devices",
    "detect_heads",
    "detect_heads_in",
    "flatten_outputs",
    "infer_inputs",
    "meta_run_with_device_checks",
    "move_in_simulation",
    "on_fake_device",
    "on_meta_device",
    "on_real_device",
    "place_of_tensor",
    "places_of",
    "plan_swap",
    "preserve_global_state",
    "read_inputs",
    "record_head_calls",
    "record_with_device_checks",
    "reject_cpu_tensors",
    "rows_are_samples",
    "substituted",
    "whole_number",
]
