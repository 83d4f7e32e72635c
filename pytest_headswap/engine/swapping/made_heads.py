"""Remember the heads that swaps made in a model, in the order of the swaps.

A freeze leaves the heads of every swap trainable, and a swap is not undone before a later one of the same head.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary, ref

from torch import nn

from pytest_headswap.engine.pytorch.modules import is_registered, named_modules
from pytest_headswap.engine.swapping.transaction import Transaction

_MADE: WeakKeyDictionary[nn.Module, list[tuple[MadeHeads, ref[Transaction]]]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class MadeHeads:
    """What one swap made in a model without wrappers.

    Attributes:
        names: names of the new tensors.
        paths: paths of the new heads.
        aliases: all names of the new tensors, such as those of tied heads.
        were_frozen: whether no parameter of the old heads was trainable.
        model_size: elements of all parameters of the model after the swap.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    aliases: tuple[str, ...]
    were_frozen: bool = False
    model_size: int = 0


def remember_heads(model: nn.Module, made: MadeHeads, changes: Transaction) -> None:
    """Note that a swap is in force. A second call does nothing."""
    known = _MADE.setdefault(model, [])
    if not any(item is made for item, _ in known):
        known.append((made, ref(changes)))  # the changes refer to the model, so a reference would keep it alive


def forget_heads(model: nn.Module, made: MadeHeads) -> None:
    """Note that a swap was undone. A second call does nothing."""
    _MADE[model] = [pair for pair in _MADE.get(model, []) if pair[0] is not made]


def later_changes(model: nn.Module, made: MadeHeads) -> list[Transaction]:
    """Return the changes of the swaps in force that came after this one."""
    known = _MADE.get(model, [])
    later = known[next((i + 1 for i, (item, _) in enumerate(known) if item is made), len(known)) :]
    return [changes for _, reference in later if (changes := reference()) is not None]


def heads_of_swaps(model: nn.Module, *others: MadeHeads) -> MadeHeads:
    """Return the heads of all swaps in force, and `others`, that are still part of the model."""
    made = (*(item for item, _ in _MADE.get(model, ())), *others)
    names = dict.fromkeys(name for item in made for n in item.names if is_registered(model, name := followed(model, n)))
    existing = {path for path, _ in named_modules(model, include_aliases=True)} if made else set()
    paths = dict.fromkeys(path for item in made for path in item.paths if path in existing)
    aliases = dict.fromkeys(name for item in made for name in item.aliases)
    were_frozen = bool(made) and all(item.were_frozen for item in made)
    last = [item for item, _ in _MADE.get(model, ())][-1:] or others[-1:]
    return MadeHeads(tuple(names), tuple(paths), tuple(aliases), were_frozen, sum(item.model_size for item in last))


def followed(model: nn.Module, name: str) -> str:
    """Return the name of a new tensor, also after its module was wrapped into one that trains a copy of it.

    Such a copy has parameters of the same names and shapes as a frozen original beside it, and is the only one inside.
    """
    path, _, key = name.rpartition(".")
    if is_registered(model, name) or not path or path not in dict(named_modules(model, include_aliases=True)):
        return name
    copies: list[tuple[str, object]] = []
    originals: list[object] = []
    for inner, module in named_modules(model.get_submodule(path)):
        value = module._parameters.get(key)
        if value is not None:
            shapes = {own: tensor.shape for own, tensor in module._parameters.items() if tensor is not None}
            if value.requires_grad:
                copies.append((f"{path}.{inner}.{key}", shapes))
            else:
                originals.append(shapes)
    return copies[0][0] if len(copies) == 1 and copies[0][1] in originals else name
