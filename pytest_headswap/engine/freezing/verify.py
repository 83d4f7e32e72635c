"""Verify a freeze on stand-in tensors, and keep the modules around the heads in eval mode if the features need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from pytest_headswap.engine.dataflow.before_heads import HeadNames, before_heads
from pytest_headswap.engine.dataflow.graph import Node
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.freezing.awake import NOTHING, AwakeParts, Enclosing, in_eval_mode
from pytest_headswap.engine.freezing.batch_mixing import Mixing, find_mixing
from pytest_headswap.engine.freezing.observe import Observation, depends_on_generators, observe
from pytest_headswap.engine.freezing.watched_graph import WatchedGraph, watch
from pytest_headswap.engine.pytorch.inputs import Inputs

_MAX_NAMED = 5  # tensors named in a message
UNVERIFIED_SAMPLES = "it was not verified that the features of a sample do not depend on the others"
"""End of the note on operations that may combine samples. A run on other batches can verify it."""
_ONE_SAMPLE = (
    "the model runs only on one sample of these inputs, so it was not verified that features do not depend on others"
)


@dataclass(frozen=True)
class FreezeVerifier:
    """Verify that the features of a frozen model depend neither on chance nor on the batch, and that it stays as it is.

    Attributes:
        model: the frozen model.
        inputs: the arguments of its forward.
        heads: the tensors and modules of its heads.
        enclosing: the modules that contain an awake one.
        awake: all parts that are not frozen.
        others: those that are no heads. The rest is verified with these in eval mode.
    """

    model: nn.Module
    inputs: Inputs
    heads: HeadNames
    enclosing: Enclosing
    awake: AwakeParts
    others: AwakeParts = NOTHING

    def verify(self, *, must_run: bool) -> tuple[str, ...]:
        """Return notes for the user. With `must_run`, a model that runs in neither mode is an error.

        Raises:
            HeadSwapError: `not_freezable` or `forward_failed`.
        """
        hooked = [
            module for module in (*self.enclosing.around_heads, *self.awake.modules) if _has_backward_hooks(module)
        ]
        names = listed(sorted({type(module).__name__ for module in hooked}))
        hook_note = (
            f"the backward hooks of {names} did not run: it was not verified that they leave the backbone as it is"
        )
        return (*self._verify_forward(must_run=must_run), *([hook_note] if hooked else []))

    def _verify_forward(self, *, must_run: bool) -> tuple[str, ...]:
        for inputs in with_two_samples(self.inputs):
            try:
                return replace(self, inputs=inputs)._verify()
            except HeadSwapError as error:
                if error.reason != "forward_failed":
                    raise
        if must_run:
            watch(self.model, self.inputs, training=False).graph.clear()
        return ("the model does not run in train mode on these inputs, so the freeze was not verified",)

    def _verify(self) -> tuple[str, ...]:
        with in_eval_mode(self.others.modules):
            notes = self._verify_frozen()
        for module in self.others.shared:
            if observe(self.model, self.inputs, training=True, readers=[module]).reads_mode:
                note = (
                    f"a {type(module).__name__} of the unfrozen part also runs in the frozen part, so it stays in eval "
                    "mode"
                )
                notes += (note,)
        if self.others.modules:
            watched = watch(self.model, self.inputs, training=True)
            watched.graph.clear()
            if written := [name for name in watched.written if name not in self.awake.names]:
                raise HeadSwapError(
                    "not_freezable",
                    f"in train mode the unfrozen part writes to {listed(written)}, which is frozen: unfreeze that too",
                )
        return notes

    def _verify_frozen(self) -> tuple[str, ...]:
        observed = observe(self.model, self.inputs, training=True, readers=self.enclosing.around_heads)
        if self._is_plain(observed):
            return (_ONE_SAMPLE,) if _samples(self.inputs) == 1 else ()
        in_train_mode = watch(self.model, self.inputs, training=True)
        notes: tuple[str, ...] = ()
        mixing = self._mixing(in_train_mode)
        fault = self._fault(in_train_mode, mixing)
        if fault is None and self._may_tell_modes_apart(observed):
            fault = self._difference_to_eval_mode(in_train_mode)
        if fault is not None:
            self.enclosing.put_to_sleep()
            note = (
                f"forward of a module that contains the head {fault.in_train_mode} in train mode, so such modules also "
                "stay in eval mode: outputs that appear only in train mode are not returned"
            )
            notes = (note,)
            in_train_mode.graph.clear()
            in_train_mode = watch(self.model, self.inputs, training=True)
            mixing = self._mixing(in_train_mode)
            if fault := self._fault(in_train_mode, mixing):
                raise HeadSwapError("not_freezable", fault.in_eval_mode)
        if in_train_mode.constants:
            names = listed(in_train_mode.constants)
            notes += (f"forward replaces {names} by constants, which do not depend on the values of its inputs",)
        if mixing is not None:
            note = (
                f"{mixing.node.name} in {where(mixing.node)} may combine or exchange the samples of a batch: "
                f"{UNVERIFIED_SAMPLES}"
            )
            notes += (note,)
        elif _samples(self.inputs) == 1:
            notes += (_ONE_SAMPLE,)
        in_train_mode.graph.clear()
        return notes

    def _mixing(self, watched: WatchedGraph) -> Mixing | None:
        return find_mixing(watched.graph, watched.features(self.heads))

    def _is_plain(self, in_train_mode: Observation) -> bool:
        """Return whether cheap runs show nothing suspicious, and the same operations in train and eval mode."""
        if in_train_mode.is_suspicious or not self._may_tell_modes_apart(in_train_mode):
            return not in_train_mode.is_suspicious
        runs = [observe(self.model, self.inputs, training=mode, keep_operations=True) for mode in (True, False)]
        return runs[0].operations == runs[1].operations

    def _may_tell_modes_apart(self, in_train_mode: Observation) -> bool:
        return in_train_mode.reads_mode or any(map(_has_hooks, self.enclosing.around_heads))

    def _fault(self, watched: WatchedGraph, mixing: Mixing | None) -> _Fault | None:
        """Return what forward does that the freeze must prevent."""
        if written := [name for name in watched.written if name not in self.awake.names]:
            return _Fault(
                f"writes to {listed(written)}",
                f"forward writes to {listed(written)} even in eval mode: write only if self.training is true",
            )
        before = before_heads(watched.graph, self.heads)
        for node in watched.nondeterministic:
            if node in before:
                what = "uses batch statistics" if "batch_norm" in node.name else "draws random numbers"
                return _Fault(
                    what,
                    f"{node.name} in {where(node)} acts on the features even in eval mode: let it depend on "
                    "self.training",
                )
        if watched.used_generators and (names := depends_on_generators(self.model, self.inputs, training=True)):
            return _Fault(
                f"draws random numbers from {listed(names)}",
                f"forward draws random numbers from {listed(names)} even in eval mode: draw them only if "
                "self.training is true",
            )
        if mixing is not None and mixing.is_certain:
            what = "combines the samples of a batch"
            return _Fault(
                what,
                f"{mixing.node.name} in {where(mixing.node)} {what} even in eval mode: let it depend on self.training",
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


def where(node: Node) -> str:
    return node.module or "a forward method"


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMED])


def _samples(inputs: Inputs) -> int:
    return next((tensor.shape[0] for tensor in inputs.tensors() if tensor.dim()), 0)


def with_two_samples(inputs: Inputs) -> list[Inputs]:
    """Return inputs to try in order: with two samples first, as a model may not combine a single one with others."""
    return [inputs.map_tensors(_twice), inputs] if _samples(inputs) == 1 else [inputs]


def _twice(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor with two samples if it has one."""
    return torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[0] == 1 else tensor


def _has_backward_hooks(module: nn.Module) -> bool:
    return bool(module._backward_hooks or module._backward_pre_hooks)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
