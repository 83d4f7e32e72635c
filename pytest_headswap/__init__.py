"""Find, swap and test the classification head of any PyTorch model.

Importing this package does not import torch, because pytest loads the plugin in every run, even if it is not used.
Public names are imported on first use (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_headswap._version import __version__

if TYPE_CHECKING:
    from pytest_headswap.case.case import Case
    from pytest_headswap.case.finding import CheckFailed, CheckSkipped
    from pytest_headswap.checks import Check
    from pytest_headswap.engine import (
        REASONS,
        Features,
        Head,
        Heads,
        HeadSwapError,
        HeadSwapWarning,
        LoadedCheckpoint,
        NoHeadError,
        Rejected,
        Swap,
        assert_frozen,
        extract_features,
        find_heads,
        freeze_backbone,
        load_checkpoint,
        swap_head,
    )
    from pytest_headswap.harness.check_model import check_headswap
    from pytest_headswap.plugin.user_tests.parametrize import parametrize_with_checks
    from pytest_headswap.zoo import ModelSpec, Zoo, ZooError, load_zoo

__all__ = [
    "REASONS",
    "Case",
    "Check",
    "CheckFailed",
    "CheckSkipped",
    "Features",
    "Head",
    "HeadSwapError",
    "HeadSwapWarning",
    "Heads",
    "LoadedCheckpoint",
    "ModelSpec",
    "NoHeadError",
    "Rejected",
    "Swap",
    "Zoo",
    "ZooError",
    "__version__",
    "assert_frozen",
    "check_headswap",
    "extract_features",
    "find_heads",
    "freeze_backbone",
    "load_checkpoint",
    "load_zoo",
    "parametrize_with_checks",
    "swap_head",
]

# modules of the names that are not in the engine
_MODULES = {
    **dict.fromkeys(("ModelSpec", "Zoo", "ZooError", "load_zoo"), "zoo"),
    "Case": "case.case",
    "Check": "checks",
    **dict.fromkeys(("CheckFailed", "CheckSkipped"), "case.finding"),
    "check_headswap": "harness.check_model",
    "parametrize_with_checks": "plugin.user_tests.parametrize",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'engine')}"), name)
    globals()[name] = value  # later lookups bypass this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
