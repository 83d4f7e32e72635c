"""Names of tensors, in a model and in messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pytest_headswap.case.value_snapshot import named_tensors
from pytest_headswap.engine import Swap
from pytest_headswap.engine.pytorch.modules import get_registered_tensor

_MAX_LISTED = 5


def join_first(names: Sequence[str]) -> str:
    """Return the first few names, and the number of those left out."""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


def names_by_identity(state: Mapping[str, object], values: Iterable[object]) -> set[str]:
    """Return all names under which these objects are stored in `state`; a shared one has several."""
    ids = {id(value) for value in values}
    return {name for name, value in state.items() if id(value) in ids}


def head_names(swap: Swap) -> set[str]:
    """Return all names of the tensors of the new heads."""
    return names_by_identity(
        dict(named_tensors(swap.model)), (get_registered_tensor(swap.model, name) for name in swap.state_dict())
    )
