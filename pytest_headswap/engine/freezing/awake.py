"""Put a model into the state of a freeze: everything is frozen except the parts that are awake."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from pytest_headswap.engine.dataflow.before_heads import HeadNames
from pytest_headswap.engine.dataflow.memory_overlap import are_disjoint
from pytest_headswap.engine.dataflow.stages import is_within
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.freezing.overrides import TrainAround, hold, hold_around
from pytest_headswap.engine.pytorch.internals import storage_key
from pytest_headswap.engine.pytorch.modules import (
    buffers_of,
    freeze_all_but,
    get_registered_tensor,
    modules,
    named_modules,
    owner_path,
    parameters,
    parameters_of,
)
from pytest_headswap.engine.pytorch.saved_state import ModuleState, remove_overrides


@dataclass(frozen=True)
class AwakeParts:
    """The parts of a model, without wrappers, that train.

    Attributes:
        names: names of their parameters and buffers.
        modules: their modules.
        shared: modules inside that stay frozen, because they also run elsewhere in the model.
    """

    names: frozenset[str] = frozenset()
    modules: frozenset[nn.Module] = frozenset()
    shared: frozenset[nn.Module] = frozenset()

    def __or__(self, other: AwakeParts) -> AwakeParts:
        modules = self.modules | other.modules
        return AwakeParts(self.names | other.names, modules, (self.shared | other.shared) - modules)

    def head_names(self, model: nn.Module) -> HeadNames:
        """Return the names of the tensors and modules."""
        return HeadNames(self.names, frozenset(path for path, module in named_modules(model) if module in self.modules))


NOTHING = AwakeParts()


def heads_awake(model: nn.Module, names: Collection[str], paths: Iterable[str]) -> AwakeParts:
    """Return the modules that own a tensor of a head, and all modules inside a head, with all their names."""
    owners = {model.get_submodule(owner_path(name)) for name in names}
    for path in filter(None, paths):
        owners |= set(modules(model.get_submodule(path)))
    own = {id(get_registered_tensor(model, name)) for name in names}
    named = [item for item in named_modules(model, include_aliases=True) if item[1] in owners]
    every = (name for name, tensor in (*parameters_of(named), *buffers_of(named)) if id(tensor) in own)
    return AwakeParts(frozenset(names).union(every), frozenset(owners))


def stages_awake(model: nn.Module, paths: Collection[str]) -> AwakeParts:
    """Return the modules and tensors at these paths."""
    named = named_modules(model, include_aliases=True)
    inside = [(path, module) for path, module in named if any(is_within(path, stage) for stage in paths)]
    outside = {module for _, module in set(named) - set(inside)}
    tensors = {name for found in (parameters_of(inside), buffers_of(inside)) for name, _ in found}
    names = frozenset(tensors | {path for path in paths if path not in dict(named)})
    contained = frozenset(module for _, module in inside)
    return AwakeParts(names, contained - outside, contained & outside)


@dataclass(frozen=True)
class Enclosing:
    """The modules that contain an awake part, but are not awake as a whole.

    Attributes:
        around_heads: those that contain a head. They follow `train()` if this is harmless.
        leading: all of them, and the awake modules.
    """

    around_heads: list[nn.Module]
    leading: set[nn.Module]

    def put_to_sleep(self) -> None:
        """Keep all of them in eval mode."""
        hold_around(self.around_heads, self.leading, asleep=True)


def freeze_except(model: nn.Module, heads: AwakeParts, kept: AwakeParts, stages: AwakeParts = NOTHING) -> Enclosing:
    """Freeze everything except the heads, what is kept trainable, and unfrozen stages."""
    awake = heads | kept | stages
    around_heads = [m for m in _enclosing_modules(model, heads.modules) if m not in awake.modules]
    elsewhere = [m for m in _enclosing_modules(model, awake.modules) if m not in around_heads]
    leading = {*around_heads, *elsewhere, *awake.modules}
    tensors = (get_registered_tensor(model, name) for name in awake.names)
    freeze_all_but(model, (tensor for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()))
    clear_frozen_gradients(model)
    remove_overrides(awake.modules)
    hold(module for module in modules(model) if module not in leading)
    hold_around(around_heads, leading, asleep=False)
    hold_around(elsewhere, leading, asleep=True)
    override = model.__dict__.get("train")
    if isinstance(override, TrainAround):
        override.unfrozen, override.kept = stages.names - kept.names, kept.names
    return Enclosing(around_heads, leading)


def noted_names(model: nn.Module) -> tuple[set[str], set[str]]:
    """Return the parameters that were unfrozen, and those that were kept trainable, in earlier freezes of the model."""
    unfrozen: set[str] = set()
    kept: set[str] = set()
    for path, module in named_modules(model, include_aliases=True):
        override = module.__dict__.get("train")
        if isinstance(override, TrainAround):
            for names, noted in ((unfrozen, override.unfrozen), (kept, override.kept)):
                names |= {f"{path}.{name}".lstrip(".") for name in noted}
    return unfrozen, kept


def clear_frozen_gradients(model: nn.Module) -> None:
    """Drop the gradients of frozen parameters, because an optimizer would still apply them."""
    for parameter in parameters(model):
        if not parameter.requires_grad:
            parameter.grad = None


@contextmanager
def in_eval_mode(parts: Collection[nn.Module]) -> Iterator[None]:
    """Keep modules and everything inside in eval mode in the block, like frozen ones."""
    states = [ModuleState(module) for module in parts]
    hold(inner for module in parts for inner in modules(module))
    try:
        yield
    finally:
        for state in states:
            state.restore()


def check_heads_untied(model: nn.Module, heads: AwakeParts, aliases: Collection[str]) -> None:
    """Raise HeadSwapError `not_freezable` if a tensor of a head is also a tensor of the backbone."""
    around = {*heads.modules, *_enclosing_modules(model, heads.modules)}
    trainable = {id(get_registered_tensor(model, name)): name for name in heads.names}
    for path, module in named_modules(model):
        for key, value in (*module._parameters.items(), *module._buffers.items()) if module not in around else ():
            name = f"{path}.{key}"
            if id(value) in trainable and name not in aliases:
                raise HeadSwapError(
                    "not_freezable",
                    f"{trainable[id(value)]} is tied to {name}, so training the head would change the backbone: give "
                    "the head its own weight first, as swap_head does",
                )


def check_stages_untied(model: nn.Module, awake: AwakeParts) -> None:
    """Raise HeadSwapError `not_freezable` if an awake tensor shares memory with a frozen one."""
    named = named_modules(model, include_aliases=True)
    frozen: dict[int | None, list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in (*parameters_of(named), *buffers_of(named)):
        if name not in awake.names:
            frozen.setdefault(storage_key(tensor), []).append((name, tensor))
    for name in sorted(awake.names):
        tensor = get_registered_tensor(model, name)
        key = storage_key(tensor)
        for other, shared in frozen.get(key, ()):
            if shared is tensor or (key is not None and not are_disjoint(tensor, shared)):
                raise HeadSwapError(
                    "not_freezable",
                    f"{name} shares its values with {other}, so training it would change the frozen part: unfreeze "
                    "both in one call, or neither",
                )


def _enclosing_modules(model: nn.Module, awake: Collection[nn.Module]) -> list[nn.Module]:
    """Return the modules that contain an awake one."""
    named = dict(named_modules(model, include_aliases=True))
    parts = [path.split(".") for path, module in named.items() if module in awake and path]
    enclosing = {".".join(part[:count]) for part in parts for count in range(len(part))}
    return list(dict.fromkeys(module for path, module in named.items() if path in enclosing and module not in awake))
