"""Give frozen modules methods of their own that keep them in eval mode. Copies and pickles of a module keep them.

These are classes with `__slots__` rather than functions: functions make copies of a model 20 % slower.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from pytest_headswap.engine.pytorch.modules import modules
from pytest_headswap.engine.pytorch.saved_state import MethodOverride


class _StayInEval(MethodOverride):
    """Keep the module and everything inside it in eval mode, including modules that were added or replaced later."""

    __slots__ = ()

    def __call__(self, mode: bool = True) -> nn.Module:  # noqa: ARG002 - signature of `train`
        hold(modules(self.module))
        return self.module


class _KeepStatistics(MethodOverride):
    """Keep the running statistics: `torch.optim.swa_utils.update_bn` would reset them."""

    __slots__ = ()

    def __call__(self) -> None:
        """Do nothing."""


class _TrainAroundHead(MethodOverride):
    """Pass the mode on to the children that lead to a head, and keep all others in eval mode.

    The module itself stays in eval mode if `asleep`.
    """

    __slots__ = ("asleep", "children")

    def __init__(self, module: nn.Module, children: tuple[str, ...], asleep: bool) -> None:
        super().__init__(module)
        self.children = children
        self.asleep = asleep

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.module, self.children, self.asleep)

    def __call__(self, mode: bool = True) -> nn.Module:
        if self.asleep:
            for name in self.children:
                self.module._modules[name].train(mode)  # type: ignore[union-attr]
            self.module.training = False
        else:
            type(self.module).train(self.module, mode)
        for name, child in self.module._modules.items():
            if child is not None and name not in self.children:
                hold(modules(child))
        return self.module


def hold(frozen: Iterable[nn.Module]) -> None:
    """Keep modules in eval mode, and their running statistics."""
    for module in frozen:
        state = module.__dict__
        state["training"] = False
        train = state.get("train")
        if type(train) is not _StayInEval or train.module is not module:
            state["train"] = _StayInEval(module)
            if hasattr(module, "reset_running_stats"):
                state["reset_running_stats"] = _KeepStatistics(module)


def hold_around_heads(enclosing: Iterable[nn.Module], head_modules: Collection[nn.Module], *, asleep: bool) -> None:
    """Make modules that contain a head keep everything else in them in eval mode.

    Args:
        enclosing: the modules that contain a head.
        head_modules: the modules of the heads.
        asleep: whether these modules themselves stay in eval mode.
    """
    awake = {*enclosing, *head_modules}
    for module in enclosing:
        children = tuple(name for name, child in module._modules.items() if child in awake)
        module.__dict__["train"] = _TrainAroundHead(module, children, asleep)
        if asleep:
            module.training = False
