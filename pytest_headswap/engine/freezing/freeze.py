"""Freeze everything in a model except its heads. The freeze holds through mode changes, copies and pickles.

`requires_grad=False` is not enough: batch norm statistics keep drifting and dropout stays active, and the next
`model.train()` undoes eval mode. This module gives every backbone module its own `train`, which keeps the module in
eval mode. It is part of the module, so copies and pickles keep it. The keys of the state_dict do not change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from pytest_headswap.engine.abstract.script_modules import is_script
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.freezing.overrides import hold, hold_around_heads
from pytest_headswap.engine.freezing.trainable import trainable_heads
from pytest_headswap.engine.freezing.verify import FreezeVerifier
from pytest_headswap.engine.freezing.watched_graph import HeadNames
from pytest_headswap.engine.pytorch.inputs import read_inputs
from pytest_headswap.engine.pytorch.modules import (
    freeze_all_but,
    get_registered_tensor,
    modules,
    named_modules,
    owner_path,
    parameters,
)
from pytest_headswap.engine.pytorch.saved_state import ModuleState, remove_overrides
from pytest_headswap.engine.pytorch.wrappers import unwrap
from pytest_headswap.engine.swapping.swap import Swap

_SCRIPT_NOTE = "copies and pickles of script modules are not frozen: freeze them again"


@dataclass(repr=False)
class FrozenBackbone:
    """A model with a frozen backbone, and the means to unfreeze it.

    Attributes:
        model: the model whose backbone is frozen.
        notes: what the user should know, such as a mode that could not be verified.
    """

    model: nn.Module
    notes: tuple[str, ...]
    _undo: ModuleState | None
    _redo: ModuleState | None = None

    def __repr__(self) -> str:
        flags = [parameter.requires_grad for parameter in parameters(self.model)]
        return (
            f"FrozenBackbone({type(unwrap(self.model)[0]).__name__}: {sum(flags)} of {len(flags)} parameters trainable)"
        )

    def unfreeze(self) -> None:
        """Restore `requires_grad` and the modes of the backbone. A second call does nothing."""
        if self._undo is not None:
            self._redo, undo, self._undo = ModuleState(self.model), self._undo, None
            undo.restore()

    def refreeze(self) -> None:
        """Freeze the backbone again after `unfreeze`, without verifying it again. A second call does nothing."""
        if self._redo is not None:
            self._undo, redo, self._redo = ModuleState(self.model), self._redo, None
            redo.restore()
        _clear_frozen_gradients(self.model)


def freeze_backbone(swap: Swap | nn.Module, example_inputs: Any = None) -> FrozenBackbone:
    """Freeze everything except the heads, and verify the result.

    The freeze holds through every later `train()`, copy and pickle:

    - Parameters and buffers of the backbone stay bit-identical while the heads train.
    - The features of a sample depend neither on chance nor on the rest of its batch: batch norm, dropout and
      stochastic depth of the backbone stay in eval mode.
    - Modules that contain a head keep their modes, so that auxiliary outputs remain. If their train mode would change
      the features or the backbone, they stay in eval mode too, and a note says so.

    Args:
        swap: the result of `swap_head`, or a model that already has the right head. The heads of all swaps of the
            model become trainable or, if it was not swapped, those that `swap_head` would replace.
        example_inputs: as for `find_heads`; a model with batch norm needs a batch of at least 2. None: those of the
            swap.

    Returns:
        The frozen model. Its `notes` list what could not be verified.

    Raises:
        NoHeadError: `swap` is a model without a head.
        HeadSwapError: nothing was frozen. `forward_failed`: the model does not run on `example_inputs`.
            `not_freezable`: in eval mode too, forward writes to the backbone, draws random numbers or combines
            samples. `not_a_module` or `bad_argument`: `swap` is neither a swap nor a model with a head.
    """
    trainable = trainable_heads(swap, read_inputs(example_inputs))
    model, prefix = unwrap(trainable.model)
    names = {name.removeprefix(prefix) for name in trainable.names}
    head_modules = _head_modules(model, names, trainable.paths, prefix)
    enclosing = _enclosing_modules(model, head_modules)
    aliases = {name.removeprefix(prefix) for name in trainable.aliases}
    _check_untied(model, names, aliases, {*head_modules, *enclosing})
    backbone = [module for module in modules(model) if module not in head_modules and module not in enclosing]
    original_state = ModuleState(model)
    freeze_all_but(model, (get_registered_tensor(model, name) for name in names))
    _clear_frozen_gradients(model)
    remove_overrides(head_modules)
    hold(backbone)
    hold_around_heads(enclosing, head_modules, asleep=False)
    notes = (_SCRIPT_NOTE,) if any(is_script(module) for module in backbone) else ()
    frozen = FrozenBackbone(trainable.model, notes, original_state)
    heads = HeadNames(frozenset(names), frozenset(p for p, module in named_modules(model) if module in head_modules))
    try:
        verifier = FreezeVerifier(model, trainable.inputs, heads, enclosing, head_modules)
        frozen.notes += verifier.verify(must_run=example_inputs is not None)
    except BaseException:
        frozen.unfreeze()
        raise
    return frozen


def _clear_frozen_gradients(model: nn.Module) -> None:
    """Drop the gradients of frozen parameters, because an optimizer would still apply them."""
    for parameter in parameters(model):
        if not parameter.requires_grad:
            parameter.grad = None


def _head_modules(model: nn.Module, names: Iterable[str], paths: Iterable[str], prefix: str) -> set[nn.Module]:
    """Return the modules that own a tensor of a head, and all modules inside a head."""
    owners = {model.get_submodule(owner_path(name)) for name in names}
    for path in paths:
        inside = f"{path}.".removeprefix(prefix).rstrip(".")
        if inside:
            owners |= set(modules(model.get_submodule(inside)))
    return owners


def _enclosing_modules(model: nn.Module, heads: set[nn.Module]) -> list[nn.Module]:
    """Return the modules that contain a head."""
    named = dict(named_modules(model, include_aliases=True))
    parts = [path.split(".") for path, module in named.items() if module in heads and path]
    enclosing = {".".join(part[:count]) for part in parts for count in range(len(part))}
    return list(dict.fromkeys(module for path, module in named.items() if path in enclosing and module not in heads))


def _check_untied(
    model: nn.Module, names: Iterable[str], aliases: Collection[str], around_heads: Collection[nn.Module]
) -> None:
    """Raise HeadSwapError `not_freezable` if a tensor of a head is also a tensor of the backbone."""
    trainable = {id(get_registered_tensor(model, name)): name for name in names}
    for path, module in named_modules(model):
        for key, value in (*module._parameters.items(), *module._buffers.items()) if module not in around_heads else ():
            name = f"{path}.{key}"
            if id(value) in trainable and name not in aliases:
                raise HeadSwapError(
                    "not_freezable",
                    f"{trainable[id(value)]} is tied to {name}, so training the head would change the backbone: give "
                    "the head its own weight first, as swap_head does",
                )
