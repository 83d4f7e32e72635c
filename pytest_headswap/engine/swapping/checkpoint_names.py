"""Find the tensors of a model in a checkpoint: in which entry they are, and which prefix their names have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from pytest_headswap._text import join_first
from pytest_headswap.engine.errors import HeadSwapError

_MAX_DEPTH = 3
_MAX_NAMED = 3
_COMPILED = "_orig_mod."  # torch.compile adds it to the names in the modules that it compiles


class Entry(NamedTuple):
    """The tensors of a checkpoint under the names of the model.

    Attributes:
        keys: the keys that lead to them, as in `checkpoint["model"]`.
        prefix: what was removed from the start of their names, or with a minus sign, what was added.
        tensors: the tensors by name. Names that the model does not have are those of the checkpoint.
    """

    keys: tuple[str, ...]
    prefix: str
    tensors: dict[str, torch.Tensor]


def find_entry(checkpoint: object, names: Collection[str]) -> Entry:
    """Return the only entry of the checkpoint with the tensors of a model. `names` are the names in the model.

    Raises:
        HeadSwapError: `bad_argument`, if there is none, or several.
    """
    if not isinstance(checkpoint, Mapping):
        raise HeadSwapError(
            "bad_argument",
            f"a checkpoint is a mapping of names to tensors, not {type(checkpoint).__name__}: pass the result of "
            "torch.load(path, weights_only=True) or of state_dict()",
        )
    entries = list(_entries(checkpoint, ()))
    found = [_renamed(keys, tensors, names) for keys, tensors in entries]
    known = set(names)
    matching = [
        entry for entry in found if 2 * len(known & entry.tensors.keys()) >= min(len(known), len(entry.tensors))
    ]
    if not matching:
        largest = max((list(tensors) for _, tensors in entries), key=len, default=[])
        has = f"it has {join_first(largest, _MAX_NAMED)}" if largest else "it has no tensors"
        raise HeadSwapError(
            "bad_argument",
            f"the checkpoint does not have the tensors of this model: {has}, and the model has "
            f"{join_first(sorted(known), _MAX_NAMED)}",
        )
    if len(matching) > 1:
        ways = [f"checkpoint{''.join(f'[{key!r}]' for key in entry.keys)}" for entry in matching]
        raise HeadSwapError(
            "bad_argument", f"the checkpoint has the tensors of the model several times: pass one of {', '.join(ways)}"
        )
    return matching[0]


def _entries(
    value: Mapping[Any, Any], keys: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, torch.Tensor]]]:
    tensors = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, torch.Tensor)}
    if tensors:
        yield keys, tensors
    for key, item in value.items() if len(keys) < _MAX_DEPTH else ():
        if isinstance(item, Mapping) and isinstance(key, str):
            yield from _entries(item, (*keys, key))


def _renamed(keys: tuple[str, ...], tensors: Mapping[str, torch.Tensor], names: Collection[str]) -> Entry:
    """Return the entry without the prefix with which most of its names are in the model."""
    plain = {key.replace(_COMPILED, ""): tensor for key, tensor in tensors.items()}
    known = set(names)
    removed = Counter(prefix for key in plain for prefix, rest in _splits(key) if rest in known)
    added = Counter(prefix for name in known for prefix, rest in _splits(name) if prefix and rest in plain)
    shorter, longer = (max(found.items(), key=lambda x: x[1], default=("", 0)) for found in (removed, added))
    if longer[1] > shorter[1]:
        renamed = {longer[0] + key if longer[0] + key in known else key: value for key, value in plain.items()}
        return Entry(keys, f"-{longer[0]}", renamed)
    prefix = shorter[0]
    renamed = {key.removeprefix(prefix) if key.removeprefix(prefix) in known else key: plain[key] for key in plain}
    return Entry(keys, prefix, renamed)


def _splits(name: str) -> Iterator[tuple[str, str]]:
    yield "", name
    for index, char in enumerate(name):
        if char == ".":
            yield name[: index + 1], name[index + 1 :]
