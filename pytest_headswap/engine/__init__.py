"""Find the classification head of a PyTorch model by its data flow, swap it, and undo the swap."""

from pytest_headswap.engine.abstract import AbstractRun, abstract_run
from pytest_headswap.engine.errors import REASONS, HeadSwapError, HeadSwapWarning, NoHeadError
from pytest_headswap.engine.freeze import Frozen, freeze_backbone
from pytest_headswap.engine.heads import Head, Heads, Rejected
from pytest_headswap.engine.swap import Swap, find_heads, swap_head

__all__ = [
    "REASONS",
    "AbstractRun",
    "Frozen",
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
