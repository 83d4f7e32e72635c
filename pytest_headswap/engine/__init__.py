"""Find the classification head of a PyTorch model from its data flow, swap it, and undo the swap."""

from pytest_headswap.engine.abstract.run import AbstractRun, abstract_run
from pytest_headswap.engine.errors import REASONS, HeadSwapError, HeadSwapWarning, NoHeadError
from pytest_headswap.engine.freezing.freeze import FrozenBackbone, freeze_backbone
from pytest_headswap.engine.swapping.swap import Swap, find_heads, swap_head
from pytest_headswap.head import Head, Heads, Rejected

__all__ = [
    "REASONS",
    "AbstractRun",
    "FrozenBackbone",
    "Head",
    "HeadSwapError",
    "HeadSwapWarning",
    "Heads",
    "NoHeadError",
    "Rejected",
    "Swap",
    "abstract_run",
    "find_heads",
    "freeze_backbone",
    "swap_head",
]
