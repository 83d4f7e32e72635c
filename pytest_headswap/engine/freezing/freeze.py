"""Freeze everything in a model except its heads. The freeze holds through mode changes, copies and pickles.

`requires_grad=False` is not enough: batch norm statistics keep drifting and dropout stays active, and the next
`model.train()` undoes eval mode. This module gives every backbone module its own `train`, which keeps the module in
eval mode. It is part of the module, so copies and pickles keep it. The keys of the state_dict do not change.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from pytest_headswap.engine.abstract.script_modules import is_script
from pytest_headswap.engine.errors import HeadSwapWarning
from pytest_headswap.engine.freezing.awake import check_heads_untied, freeze_except, heads_awake
from pytest_headswap.engine.freezing.frozen_backbone import FrozenBackbone
from pytest_headswap.engine.freezing.kept import KeptParts, kept_names, kept_note
from pytest_headswap.engine.freezing.trainable import trainable_heads
from pytest_headswap.engine.freezing.verify import FreezeVerifier
from pytest_headswap.engine.pytorch.inputs import read_inputs
from pytest_headswap.engine.pytorch.modules import modules
from pytest_headswap.engine.pytorch.saved_state import ModuleState
from pytest_headswap.engine.pytorch.wrappers import unwrap
from pytest_headswap.engine.swapping.swap import Swap

_SCRIPT_NOTE = "copies and pickles of script modules are not frozen: freeze them again"


def freeze_backbone(
    swap: Swap | nn.Module, example_inputs: Any = None, *, head: str | Sequence[str] | None = None
) -> FrozenBackbone:
    """Freeze everything except the heads, and verify the result.

    The freeze holds through every later `train()`, copy and pickle:

    - Parameters and buffers of the backbone stay bit-identical while the heads train.
    - The features of a sample depend neither on chance nor on the rest of its batch: batch norm, dropout and
      stochastic depth of the backbone stay in eval mode.
    - Modules that contain a head keep their modes, so that auxiliary outputs remain. If their train mode would change
      the features or the backbone, they stay in eval mode too, and a note says so.

    Parameters that are trainable while nearly everything else is frozen, such as those of low-rank adapters, were
    prepared on purpose: they stay trainable with their dropout, and a warning names them.

    Args:
        swap: the result of `swap_head`, or a model that already has the right head. The heads of all swaps of the
            model become trainable or, if it was not swapped, those that `swap_head` would replace.
        example_inputs: as for `find_heads`; a model with batch norm needs a batch of at least 2. None: those of the
            swap.
        head: path of the head to train, or several paths, for a model whose heads predict different things, as for
            `swap_head`. By default the heads of all swaps are trained.

    Returns:
        The frozen model. Its `notes` list what could not be verified.

    Raises:
        NoHeadError: `swap` is a model without a head.
        HeadSwapError: nothing was frozen. `forward_failed`: the model does not run on `example_inputs`.
            `not_freezable`: in eval mode too, forward writes to the backbone, draws random numbers or combines
            samples. `not_a_module` or `bad_argument`: `swap` is neither a swap nor a model with a head. `ambiguous` or
            `unknown_head`: as for `swap_head`. `unsupported_model`: the model is wrapped in `DistributedDataParallel`.
    """
    trainable = trainable_heads(swap, read_inputs(example_inputs), head)
    model, prefix = unwrap(trainable.model)
    names, aliases, paths = (
        {name.removeprefix(prefix) for name in group}
        for group in (trainable.names, trainable.aliases, (f"{path}." for path in trainable.paths))
    )
    heads = heads_awake(model, names, (path.rstrip(".") for path in paths))
    check_heads_untied(model, heads, aliases)
    kept = KeptParts(
        model, heads, kept_names(model, heads, trainable.were_frozen, trainable.size_at_swap), trainable.inputs
    )
    warning = kept_note(prefix, kept.parts.names) if kept.parts.names else ""
    notes = (*filter(None, [warning]), *kept.notes)
    original_state = ModuleState(model)
    enclosing = freeze_except(model, heads, kept.parts)
    if any(is_script(module) for module in set(modules(model)) - enclosing.leading):
        notes += (_SCRIPT_NOTE,)
    frozen = FrozenBackbone(trainable.model, notes, heads, kept.parts, trainable.inputs, original_state, notes)
    try:
        awake = heads | kept.parts
        verifier = FreezeVerifier(model, trainable.inputs, heads.head_names(model), enclosing, awake, kept.parts)
        frozen.notes += verifier.verify(must_run=example_inputs is not None)
    except BaseException:
        frozen.unfreeze()
        raise
    if warning:
        warnings.warn(warning, HeadSwapWarning, stacklevel=2)
    return frozen
