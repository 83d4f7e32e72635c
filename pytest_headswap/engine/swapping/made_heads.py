"""Remember the heads that swaps made in a model, so that a freeze leaves the heads of every swap trainable."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

from pytest_headswap.engine.pytorch.modules import is_registered, named_modules, named_parameters

_MADE: WeakKeyDictionary[nn.Module, list[MadeHeads]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class MadeHeads:
    """What one swap made in a model without wrappers.

    Attributes:
        names: names of the new tensors.
        paths: paths of the new heads.
        aliases: all names of the new tensors, such as those of tied heads.
        were_frozen: whether no parameter of the old heads was trainable.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    aliases: tuple[str, ...]
    were_frozen: bool = False


def remember_heads(model: nn.Module, made: MadeHeads) -> None:
    """Note that a swap is in force. A second call does nothing."""
    known = _MADE.setdefault(model, [])
    if made not in known:
        known.append(made)


def forget_heads(model: nn.Module, made: MadeHeads) -> None:
    """Note that a swap was undone. A second call does nothing."""
    _MADE[model] = [item for item in _MADE.get(model, []) if item is not made]


def heads_of_swaps(model: nn.Module, *others: MadeHeads) -> MadeHeads:
    """Return the heads of all swaps in force, and `others`, that are still part of the model."""
    made = (*_MADE.get(model, ()), *others)
    names = dict.fromkeys(name for item in made for n in item.names if is_registered(model, name := followed(model, n)))
    existing = {path for path, _ in named_modules(model, include_aliases=True)} if made else set()
    paths = dict.fromkeys(path for item in made for path in item.paths if path in existing)
    aliases = dict.fromkeys(name for item in made for name in item.aliases)
    return MadeHeads(tuple(names), tuple(paths), tuple(aliases), bool(made) and all(item.were_frozen for item in made))


def followed(model: nn.Module, name: str) -> str:
    """Return the name of a new tensor, also after its module was wrapped into one that trains a copy of it.

    Such a copy has the same shape, and is the only one inside that is trainable.
    """
    path, _, key = name.rpartition(".")
    if is_registered(model, name) or not path or path not in dict(named_modules(model, include_aliases=True)):
        return name
    inside = {
        inner: value
        for inner, value in named_parameters(model.get_submodule(path))
        if inner.rpartition(".")[2] == key and value.requires_grad
    }
    if len({id(value) for value in inside.values()}) != 1:
        return name
    return f"{path}.{next(iter(inside))}"
