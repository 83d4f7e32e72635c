"""Exchange the parameters of a head in optimizers that were made before the swap, or warn when one is used later."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import LBFGS
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from pytest_headswap.engine.errors import HeadSwapError, HeadSwapWarning
from pytest_headswap.engine.pytorch.modules import named_parameters
from pytest_headswap.engine.swapping.transaction import Transaction

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

_MAX_NAMED = 4


def read_optimizers(given: Any) -> tuple[Optimizer, ...]:
    """Return the optimizers that the user passed: none, one or several.

    Raises:
        HeadSwapError: `bad_argument`.
    """
    if given is None:
        return ()
    found = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    wrong = next((type(item).__name__ for item in found if not isinstance(item, Optimizer)), "")
    if wrong or not found:
        raise HeadSwapError(
            "bad_argument",
            f"optimizer must be a torch.optim.Optimizer or a list of them, not {wrong or 'an empty list'}. A scheduler "
            "keeps its optimizer, so pass that one",
        )
    if any(isinstance(item, LBFGS) for item in found):
        raise HeadSwapError(
            "bad_argument",
            "LBFGS has one state for all parameters together, so none can be exchanged: create it after the swap",
        )
    return found


class _Exchange:
    """Some parameters in a group of an optimizer, as the only item of a container, so that a transaction can set them.

    State of the parameters that leave the optimizer, such as momentum, leaves it too. It returns with them.
    """

    def __init__(self, optimizer: Optimizer, group: int, old: Sequence[nn.Parameter], names: dict[int, str]) -> None:
        self._optimizer = optimizer
        self._group = group
        self._present = list(old)
        self._names = names
        self._places: dict[int, int] = {}
        self._states: dict[int, Any] = {}

    def __getitem__(self, key: str) -> list[nn.Parameter]:
        return self._present

    def __setitem__(self, key: str, value: list[nn.Parameter]) -> None:
        groups, leaving = self._optimizer.param_groups, {id(parameter) for parameter in self._present}
        # a state that was loaded has new groups
        group = next((g for g in groups if any(id(p) in leaving for p in g["params"])), groups[self._group])
        pairs = list(zip(group["params"], group.get("param_names", group["params"]), strict=True))
        places = [index for index, (parameter, _) in enumerate(pairs) if id(parameter) in leaving]
        for index in places:
            self._places[id(pairs[index][0])] = index
        kept = [pair for pair in pairs if id(pair[0]) not in leaving]
        for offset, parameter in enumerate(value):
            place = self._places.get(id(parameter), places[0] + offset if places else len(pairs))
            kept.insert(place, (parameter, self._names.get(id(parameter), "")))
        group["params"][:] = [parameter for parameter, _ in kept]  # in place: some optimizers keep the list
        if "param_names" in group:
            group["param_names"][:] = [name for _, name in kept]
        for parameter in self._present:
            if parameter in self._optimizer.state:
                self._states[id(parameter)] = self._optimizer.state.pop(parameter)
        for parameter in value:
            if id(parameter) in self._states:
                self._optimizer.state[parameter] = self._states.pop(id(parameter))
        self._present = value


def exchange_parameters(
    model: nn.Module,
    prefix: str,
    before: dict[str, nn.Parameter],
    optimizers: Sequence[Optimizer],
    changes: Transaction,
) -> None:
    """Replace the parameters of the old heads by those of the new ones, in the groups of the optimizers.

    A new parameter replaces the old one of the same name. If there is none, it goes to the group that held an old
    parameter of the most similar name, of as many dimensions if possible.

    Args:
        model: the model, without wrappers, after the swap.
        prefix: its path in the model that the user passed.
        before: its parameters before the swap.
        optimizers: the optimizers.
        changes: records every change.

    Raises:
        HeadSwapError: `bad_argument`, if none of the optimizers holds a parameter of the old heads.
    """
    after = dict(named_parameters(model))
    old, new = ({id(parameter): name for name, parameter in reversed(names.items())} for names in (before, after))
    names = {key: prefix + name for key, name in (old | new).items()}
    added = [after[name] for key, name in reversed(new.items()) if key not in old]
    renewed = {id(before[new[id(value)]]): value for value in added if new[id(value)] in before}
    others = [value for value in added if not any(value is other for other in renewed.values())]
    found = False
    for optimizer in optimizers:
        lost: dict[int, list[nn.Parameter]] = {}
        for index, group in enumerate(optimizer.param_groups):
            for parameter in list(group["params"]):
                key = id(parameter)
                if key in renewed:  # a tied embedding stays in the model, and so in the optimizer
                    leaving = [parameter] if key not in new else []
                    changes.set(_Exchange(optimizer, index, leaving, names), "parameters", [renewed[key]])
                elif key in old and key not in new:
                    lost.setdefault(index, []).append(parameter)
                found |= key in renewed or index in lost
        homes = [_home(value, lost, names) for value in others] if lost else []
        for index, leaving in lost.items():
            own = [value for value, home in zip(others, homes, strict=True) if home == index]
            changes.set(_Exchange(optimizer, index, leaving, names), "parameters", own)
    if not found:
        raise HeadSwapError(
            "bad_argument",
            "none of the optimizers holds a parameter of the old head, so there is nothing to exchange: swap without "
            "optimizer, and then call optimizer.add_param_group({'params': list(swap.parameters())})",
        )


def _home(new: nn.Parameter, lost: Mapping[int, Iterable[nn.Parameter]], names: Mapping[int, str]) -> int:
    """Return the group whose lost parameters are most similar to a new one."""

    def likeness(index: int) -> tuple[int, bool]:
        parts = names[id(new)].split(".")
        common = [
            next((i for i, part in enumerate(parts) if other[i : i + 1] != [part]), len(parts))
            for old in lost[index]
            for other in [names[id(old)].split(".")]
        ]
        return max(common), any((old.dim() > 1) == (new.dim() > 1) for old in lost[index])

    return max(lost, key=likeness)


_replaced: dict[int, tuple[weakref.ref[nn.Parameter], str]] = {}
_hook: list[RemovableHandle] = []


def watch_replaced(before: Mapping[str, nn.Parameter], model: nn.Module) -> None:
    """Warn once an optimizer makes a step with a parameter that a swap took out of the model.

    Looking for the optimizers of a model at once would mean to search all objects of the process.
    """
    present = {id(parameter) for _, parameter in named_parameters(model)}
    for name, parameter in before.items():
        key = id(parameter)
        if key not in present:
            _replaced[key] = weakref.ref(parameter, lambda _, key=key: _replaced.pop(key, None)), name  # type: ignore[misc]
    if _replaced and not _hook:
        _hook.append(register_optimizer_step_pre_hook(_warn_once))


def forget_replaced(model: nn.Module) -> None:
    """Do not warn about the parameters that the model has again."""
    for _, parameter in named_parameters(model) if _replaced else ():
        _replaced.pop(id(parameter), None)


def _warn_once(optimizer: Optimizer, *_: Any) -> None:
    if torch.compiler.is_compiling():
        return
    keys = _replaced.keys() & {id(p) for group in optimizer.param_groups for p in group["params"]}
    stale = [_replaced.pop(key)[1] for key in list(_replaced) if key in keys]
    if not _replaced and _hook:
        _hook.pop().remove()
    if stale:
        more = f" and {len(stale) - _MAX_NAMED} more" if len(stale) > _MAX_NAMED else ""
        warnings.warn(
            f"this {type(optimizer).__name__} holds {', '.join(stale[:_MAX_NAMED])}{more} of a head that was swapped, "
            "so it trains a head that is no longer part of the model. Pass optimizer= to swap_head, or create the "
            "optimizer after the swap",
            HeadSwapWarning,
            stacklevel=3,
        )
