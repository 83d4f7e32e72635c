"""Copy a model without anything of this package in it, so that a whole saved model loads where only torch is."""

from __future__ import annotations

import copy

from torch import nn

from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.modules import modules
from pytest_headswap.engine.pytorch.saved_state import remove_overrides


def plain_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose modules have their own methods again.

    Raises:
        HeadSwapError: `unsupported_model`, if the model cannot be copied.
    """
    try:
        copied = copy.deepcopy(model)
    except Exception as error:
        raise HeadSwapError(
            "unsupported_model",
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}): "
            "remove what cannot be copied, or save model.state_dict(), which is plain",
        ) from error
    remove_overrides(modules(copied))
    return copied
