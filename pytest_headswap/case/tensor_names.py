"""Names of tensors, in a model and in messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pytest_headswap.case.value_snapshot import named_tensors
from pytest_headswap.engine import Swap


def names_by_identity(state: Mapping[str, object], values: Iterable[object]) -> set[str]:
    """Return all names under which these objects are stored in `state`; a shared one has several."""
    ids = {id(value) for value in values}
    return {name for name, value in state.items() if id(value) in ids}


def head_names(swap: Swap) -> set[str]:
    """Return all names of the tensors of the new heads."""
    tensors = dict(named_tensors(swap.model))
    return names_by_identity(tensors, [tensors[name] for name in swap.state_dict()])


def swapped_names(swap: Swap) -> set[str]:
    """Return all names of the tensors of the new heads, and those of the old heads, which may be gone."""
    return head_names(swap).union(name for head in swap.old_heads for name in head.tensors)
