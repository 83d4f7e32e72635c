"""A model with a frozen backbone: unfreeze it, as a whole or stage by stage, and freeze it again."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pytest_headswap._text import did_you_mean
from pytest_headswap.engine.dataflow.stages import Stages
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.freezing.awake import (
    AwakeParts,
    check_stages_untied,
    clear_frozen_gradients,
    freeze_except,
    stages_awake,
)
from pytest_headswap.engine.freezing.verify import FreezeVerifier
from pytest_headswap.engine.freezing.watched_graph import watch
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.modules import named_modules, named_parameters, parameters
from pytest_headswap.engine.pytorch.saved_state import ModuleState
from pytest_headswap.engine.pytorch.wrappers import unwrap, without_wrappers


@dataclass(repr=False)
class FrozenBackbone:
    """A model with a frozen backbone, and the means to unfreeze it.

    Attributes:
        model: the model whose backbone is frozen.
        notes: what the user should know about what is frozen now, such as a mode that could not be verified.
    """

    model: nn.Module
    notes: tuple[str, ...]
    _heads: AwakeParts
    _kept: AwakeParts
    _inputs: Inputs
    _undo: ModuleState | None
    _lasting_notes: tuple[str, ...] = ()
    _redo: tuple[ModuleState, tuple[str, ...]] | None = None
    _stages: tuple[str, ...] = ()

    def __repr__(self) -> str:
        flags = [parameter.requires_grad for parameter in parameters(self.model)]
        name = type(without_wrappers(self.model)[0]).__name__
        return f"FrozenBackbone({name}: {sum(flags)} of {len(flags)} parameters trainable)"

    def unfreeze(self, *paths: str, last: int | None = None) -> list[nn.Parameter]:
        """Unfreeze stages of the backbone, or without arguments all of it.

        The parameters of a stage train, its batch norm and dropout follow `train()`, and its buffers may change. All
        else stays frozen, and the features that enter the stage are verified again. Later calls add stages. Call
        `train()` on the model afterwards.

        A call without arguments restores `requires_grad` and the modes that the backbone had before the freeze.

        Args:
            *paths: paths of modules, such as `"layer4"`, or names of parameters.
            last: number of stages to unfreeze, counted from the heads back along the data flow. A stage is one of
                several modules of a kind that run in sequence: `layer4` of a ResNet, a block of a transformer. Smaller
                layers belong to the stage before them, such as the last norm. What runs before the first stage, such
                as a stem, is a stage as well.

        Returns:
            The parameters that were frozen before and are trainable now, for `optimizer.add_param_group`. Empty if
            there are none.

        Raises:
            HeadSwapError: nothing has changed. `bad_argument`: there is no such path, it is part of a head, or the
                model has fewer stages. `not_freezable`: a stage shares a tensor with the frozen part, or writes to it.
        """
        before = {id(parameter) for parameter in parameters(self.model) if parameter.requires_grad}
        stages = [*map(self._known, paths), *(self._last(last) if last is not None else ())]
        if not paths and last is None:
            self._unfreeze_all()
        elif self._undo is not None:
            self._unfreeze_stages(stages)
        return [p for p in parameters(self.model) if p.requires_grad and id(p) not in before]

    def refreeze(self) -> None:
        """Freeze the backbone again after `unfreeze`, without verifying it again. A second call does nothing."""
        if self._redo is not None:
            self._undo = self._undo or ModuleState(self.model)
            (redo, self.notes), self._redo, self._stages = self._redo, None, ()
            redo.restore()
        clear_frozen_gradients(self.model)

    def _unfreeze_all(self) -> None:
        if self._undo is not None:
            self._redo = self._redo or (ModuleState(self.model), self.notes)
            undo, self._undo, self.notes = self._undo, None, ()
            undo.restore()

    def _unfreeze_stages(self, paths: Sequence[str]) -> None:
        model, _ = unwrap(self.model)
        every = (*self._stages, *paths)  # a module that two stages share is awake once both are
        before, stages = stages_awake(model, self._stages), stages_awake(model, every)
        awake = self._heads | self._kept | stages
        check_stages_untied(model, awake)
        state, modes = ModuleState(self.model), {module: module.training for module in self._heads.modules}
        try:
            enclosing = freeze_except(model, self._heads, self._kept, stages)
            for module in stages.modules - before.modules:
                module.training = any(modes.values())
            heads = self._heads.head_names(model)
            verifier = FreezeVerifier(model, self._inputs, heads, enclosing, awake, self._kept | stages)
            notes = verifier.verify(must_run=False)
        except BaseException:
            state.restore()
            raise
        self._redo = self._redo or (state, self.notes)
        self._stages = every
        self.notes = tuple(dict.fromkeys((*self._lasting_notes, *notes)))

    def _last(self, count: Any) -> list[str]:
        try:
            number = -1 if isinstance(count, bool) else operator.index(count)
        except TypeError:
            number = -1
        if number < 1:
            raise HeadSwapError("bad_argument", f"last must be a positive whole number of stages, not {count!r}")
        model, _ = unwrap(self.model)
        heads = self._heads.head_names(model)
        watched = watch(model, self._inputs, training=False)
        stages = Stages(model, watched.graph, heads)
        watched.graph.clear()
        if number > stages.count:
            raise HeadSwapError(
                "bad_argument",
                f"the model has {stages.count} stages before its heads, not {number}: call unfreeze() to unfreeze all",
            )
        return stages.last(number)

    def _known(self, path: Any) -> str:
        """Return the path in the model without wrappers."""
        model, prefix = unwrap(self.model)
        named, tensors = dict(named_modules(model, include_aliases=True)), dict(named_parameters(model))
        if not isinstance(path, str):
            raise HeadSwapError(
                "bad_argument", f"unfreeze takes paths of modules such as 'layer4', not {type(path).__name__}"
            )
        inner = path.removeprefix(prefix)
        if not inner or inner == prefix.rstrip("."):
            raise HeadSwapError("bad_argument", f"{path!r} is the model itself: call unfreeze() to unfreeze all of it")
        if inner not in named and inner not in tensors:
            near = did_you_mean(inner, (*named, *tensors))
            raise HeadSwapError("bad_argument", f"the model has no module or parameter at {path!r}{near}")
        if named.get(inner) in self._heads.modules or inner in self._heads.names:
            raise HeadSwapError(
                "bad_argument",
                f"{path!r} is part of a head, which is trainable already: pass the path of a module before it",
            )
        return inner
