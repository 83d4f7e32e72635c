"""Give frozen modules methods of their own that keep them in eval mode. Copies and pickles of a module keep them.

These are classes with `__slots__` rather than functions: functions make copies of a model 20 % slower.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from pytest_headswap._text import join_first
from pytest_headswap.engine.errors import HeadSwapWarning
from pytest_headswap.engine.pytorch.modules import modules
from pytest_headswap.engine.pytorch.saved_state import MethodOverride


class _StayInEval(MethodOverride):
    """Keep the module and everything inside it in eval mode, including modules that were added or replaced later."""

    __slots__ = ()

    def __call__(self, mode: bool = True) -> nn.Module:  # noqa: ARG002 - signature of `train`
        _hold_all(self.module)
        return self.module


class _KeepStatistics(MethodOverride):
    """Keep the running statistics: `torch.optim.swa_utils.update_bn` would reset them."""

    __slots__ = ()

    def __call__(self) -> None:
        """Do nothing."""


class TrainAround(MethodOverride):
    """Pass the mode on to the children that lead to an awake part, and keep all others in eval mode.

    Attributes:
        children: names of these children.
        asleep: whether the module itself stays in eval mode.
        unfrozen: on the outermost module, the names of the parameters that `unfreeze` made trainable.
        kept: there, the names of those that were trainable before the freeze and stay trainable.
    """

    __slots__ = ("asleep", "children", "kept", "unfrozen")

    def __init__(
        self,
        module: nn.Module,
        children: tuple[str, ...],
        asleep: bool,
        unfrozen: frozenset[str] = frozenset(),
        kept: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(module)
        self.children = children
        self.asleep = asleep
        self.unfrozen = unfrozen
        self.kept = kept

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.module, self.children, self.asleep, self.unfrozen, self.kept)

    def __call__(self, mode: bool = True) -> nn.Module:
        if self.asleep:
            for name in self.children:
                self.module._modules[name].train(mode)  # type: ignore[union-attr]
            self.module.training = False
        else:
            type(self.module).train(self.module, mode)
        for name, child in self.module._modules.items():
            if child is not None and name not in self.children:
                _hold_all(child)
        return self.module


def _hold_all(frozen: nn.Module) -> None:
    """Hold a module and all inside. Warn once about adapters that were added after the freeze."""
    added = [m for m in hold(modules(frozen)) if any(p is not None and p.requires_grad for p in m._parameters.values())]
    if added:
        kinds = list(dict.fromkeys(type(module).__name__ for module in added))
        warnings.warn(
            f"modules with trainable parameters were added to the frozen backbone ({join_first(kinds)}). They stay in "
            "eval mode, and so does dropout beside them: call freeze_backbone again to wake them",
            HeadSwapWarning,
            stacklevel=5,
        )


def hold(frozen: Iterable[nn.Module]) -> list[nn.Module]:
    """Keep modules in eval mode, and their running statistics. Return those that were not held before."""
    added = []
    for module in frozen:
        state = module.__dict__
        if "training" in state:
            state["training"] = False  # because `__setattr__` of a module is slow
        else:  # a script module keeps its mode elsewhere
            module.training = False
        train = state.get("train")
        if type(train) is not _StayInEval or train.module is not module:
            added.append(module)
            state["train"] = _StayInEval(module)
            if hasattr(module, "reset_running_stats"):
                state["reset_running_stats"] = _KeepStatistics(module)
    return added


def hold_around(enclosing: Iterable[nn.Module], leading: Collection[nn.Module], *, asleep: bool) -> None:
    """Make modules that contain an awake part keep everything else in them in eval mode.

    Args:
        enclosing: the modules that contain an awake part.
        leading: all such modules, and the awake ones.
        asleep: whether these modules themselves stay in eval mode.
    """
    for module in enclosing:
        children = tuple(name for name, child in module._modules.items() if child in leading)
        former = module.__dict__.get("train")
        names = (former.unfrozen, former.kept) if isinstance(former, TrainAround) else ()
        module.__dict__["train"] = TrainAround(module, children, asleep, *names)
        if asleep:
            module.training = False
