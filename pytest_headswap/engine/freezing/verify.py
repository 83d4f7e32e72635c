"""Verify a freeze on stand-in tensors, and keep the modules around the heads in eval mode if the features need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from pytest_headswap.engine.dataflow.graph import Node
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.freezing.batch_mixing import mixing_node
from pytest_headswap.engine.freezing.observe import depends_on_generators, observe
from pytest_headswap.engine.freezing.overrides import hold_around_heads
from pytest_headswap.engine.freezing.watched_graph import HeadNames, WatchedGraph, watch
from pytest_headswap.engine.pytorch.inputs import Inputs

_MAX_NAMED = 5  # tensors named in a message


@dataclass(frozen=True)
class FreezeVerifier:
    """Verify that the features of a frozen model depend neither on chance nor on the batch, and that it stays as it is.

    Attributes:
        model: the frozen model.
        inputs: the arguments of its forward.
        heads: the tensors and modules of its heads.
        enclosing: the modules that contain a head.
        head_modules: the modules of the heads.
    """

    model: nn.Module
    inputs: Inputs
    heads: HeadNames
    enclosing: Sequence[nn.Module]
    head_modules: set[nn.Module]

    def verify(self, *, must_run: bool) -> tuple[str, ...]:
        """Return notes for the user. With `must_run`, a model that runs in neither mode is an error.

        Raises:
            HeadSwapError: `not_freezable` or `forward_failed`.
        """
        try:
            if self._is_plain():
                return ()
            in_train_mode = watch(self.model, self.inputs, training=True)
        except HeadSwapError:
            if must_run:
                watch(self.model, self.inputs, training=False).graph.clear()
            return ("the model does not run in train mode on these inputs, so the freeze was not verified",)
        notes: tuple[str, ...] = ()
        fault = self._fault(in_train_mode) or self._difference_to_eval_mode(in_train_mode)
        if fault is not None:
            hold_around_heads(self.enclosing, self.head_modules, asleep=True)
            note = (
                f"forward of a module that contains the head {fault.in_train_mode} in train mode, so such modules also "
                "stay in eval mode: outputs that appear only in train mode are not returned"
            )
            notes = (note,)
            in_train_mode.graph.clear()
            in_train_mode = watch(self.model, self.inputs, training=True)
            if fault := self._fault(in_train_mode):
                raise HeadSwapError("not_freezable", fault.in_eval_mode)
        if in_train_mode.constants:
            names = _listed(in_train_mode.constants)
            notes += (f"forward replaces {names} by constants, which do not depend on the values of its inputs",)
        in_train_mode.graph.clear()
        return notes

    def _is_plain(self) -> bool:
        """Return whether cheap runs show nothing suspicious, and the same operations in train and eval mode."""
        in_train_mode = observe(self.model, self.inputs, training=True, readers=self.enclosing)
        if in_train_mode.is_suspicious:
            return False
        if not in_train_mode.reads_mode and not any(map(_has_hooks, self.enclosing)):
            return True
        runs = [observe(self.model, self.inputs, training=mode, keep_operations=True) for mode in (True, False)]
        return runs[0].operations == runs[1].operations

    def _fault(self, watched: WatchedGraph) -> _Fault | None:
        """Return what forward does that the freeze must prevent."""
        if written := [name for name in watched.written if name not in self.heads.tensors]:
            return _Fault(
                f"writes to {_listed(written)}",
                f"forward writes to {_listed(written)} even in eval mode: write only if self.training is true",
            )
        before_heads = watched.before_heads(self.heads)
        for node in watched.nondeterministic:
            if node in before_heads:
                what = "uses batch statistics" if "batch_norm" in node.name else "draws random numbers"
                return _Fault(
                    what,
                    f"{node.name} in {_where(node)} acts on the features even in eval mode: let it depend on "
                    "self.training",
                )
        if watched.used_generators and (names := depends_on_generators(self.model, self.inputs, training=True)):
            return _Fault(
                f"draws random numbers from {_listed(names)}",
                f"forward draws random numbers from {_listed(names)} even in eval mode: draw them only if "
                "self.training is true",
            )
        if mixing := mixing_node(watched.graph, before_heads):
            what = "combines the samples of a batch"
            return _Fault(
                what, f"{mixing.name} in {_where(mixing)} {what} even in eval mode: let it depend on self.training"
            )
        return None

    def _difference_to_eval_mode(self, in_train_mode: WatchedGraph) -> _Fault | None:
        """Return a fault if a head reads features in eval mode that no head reads in train mode."""
        try:
            in_eval_mode = watch(self.model, self.inputs, training=False)
        except HeadSwapError:
            return None
        missing = in_eval_mode.feature_operations(self.heads) - in_train_mode.feature_operations(self.heads)
        in_eval_mode.graph.clear()
        return _Fault("computes other features", "") if missing else None


class _Fault(NamedTuple):
    """What forward does in train mode, and the message of the error if it does so in eval mode too."""

    in_train_mode: str
    in_eval_mode: str


def _where(node: Node) -> str:
    return node.module or "a forward method"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMED])


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
