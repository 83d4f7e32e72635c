"""Freeze everything in a model except its heads. The freeze holds through mode changes, copies and pickles.

`requires_grad=False` is not enough: batch norm statistics keep drifting and dropout stays active, and the next
`model.train()` undoes eval mode. This module gives every backbone module its own `train`, which keeps the module in
eval mode. It is part of the module, so copies and pickles keep it. The keys of the state_dict do not change.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from pytest_headswap.engine.dataflow.dim_tracer import Tracer
from pytest_headswap.engine.dataflow.graph import Graph, Node, ancestors
from pytest_headswap.engine.dataflow.recorder import record
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.freezing.nondeterminism import is_deterministic_run, is_nondeterministic
from pytest_headswap.engine.freezing.trainable import trainable_heads
from pytest_headswap.engine.pytorch.inputs import Inputs, read_inputs
from pytest_headswap.engine.pytorch.modules import (
    freeze_all_but,
    get_registered_tensor,
    modules,
    named_modules,
    owner_path,
    parameters,
)
from pytest_headswap.engine.pytorch.saved_state import ModuleState
from pytest_headswap.engine.pytorch.wrappers import unwrap
from pytest_headswap.engine.swapping.swap import Swap

_MAX_NAMED = 5  # tensors named in a message


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
    - Modules that contain a head keep their modes, so that auxiliary outputs remain. If their train mode made the
      features random or batch-dependent, they stay in eval mode too, and a note says so.

    Args:
        swap: the result of `swap_head`, or a model that already has the right head. The heads of a model are those
            that `swap_head` would replace; they become trainable.
        example_inputs: as for `find_heads`; a model with batch norm needs a batch of at least 2. None: those of the
            swap.

    Returns:
        The frozen model. Its `notes` list what could not be verified.

    Raises:
        NoHeadError: `swap` is a model without a head.
        HeadSwapError: nothing was frozen. `not_freezable`: forward writes to the backbone or draws random numbers in
            eval mode too. `not_a_module` or `bad_argument`: `swap` is neither a swap nor a model with a head.
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
    _override_train(backbone, _StayInEval)
    frozen = FrozenBackbone(trainable.model, (), original_state)
    verifier = _FreezeVerifier(names, {path for path, module in named_modules(model) if module in head_modules})
    try:
        if not _is_deterministic(model, trainable.inputs):
            _verify(frozen, verifier, enclosing, model, trainable.inputs)
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


class _TrainOverride:
    """The `train` method of a frozen module, which is copied and pickled with the module.

    A class with `__slots__` rather than a function: functions make copies of a model 20 % slower.
    """

    __slots__ = ("module",)

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.module,)

    def __deepcopy__(self, memo: dict[int, Any]) -> _TrainOverride:
        return type(self)(copy.deepcopy(self.module, memo))


class _StayInEval(_TrainOverride):
    """Keep the module and everything inside it in eval mode, including modules that forward adds later."""

    def __call__(self, mode: bool = True) -> nn.Module:  # noqa: ARG002 - signature of `train`
        return nn.Module.train(self.module, mode=False)


class _StayAroundHead(_TrainOverride):
    """Keep the module in eval mode, but pass the mode on to its children."""

    def __call__(self, mode: bool = True) -> nn.Module:
        for child in self.module.children():
            child.train(mode)
        self.module.training = False
        return self.module


def _override_train(modules: Iterable[nn.Module], train: type[_TrainOverride]) -> None:
    for module in modules:
        module.training = False
        module.__dict__["train"] = train(module)


def _is_deterministic(model: nn.Module, inputs: Inputs) -> bool:
    try:
        return is_deterministic_run(model, inputs)
    except HeadSwapError:
        return False  # The model does not run; `_verify` reports that.


def _verify(
    frozen: FrozenBackbone, verifier: _FreezeVerifier, enclosing: Iterable[nn.Module], model: nn.Module, inputs: Inputs
) -> None:
    """Verify the freeze in the data flow.

    If the features require it, also keep the modules that contain a head in eval mode.

    Raises:
        HeadSwapError: `not_freezable`.
    """
    graph = _train_graph(model, inputs)
    try:
        written = verifier.written_tensors(graph)
        if written or verifier.nondeterministic_nodes(graph):
            _override_train(enclosing, _StayAroundHead)
            what = f"writes to {', '.join(written)}" if written else "draws random numbers"
            note = (
                f"forward of a module that contains the head {what} in train mode, so such modules also stay in eval "
                "mode: outputs that appear only in train mode are not returned"
            )
            frozen.notes = (note,)
            graph = _train_graph(model, inputs)
        verifier.verify(graph)
        if graph is None:
            frozen.notes = ("the model does not run in train mode on these inputs, so the freeze was not verified",)
    finally:
        if graph is not None:
            graph.clear()


def _train_graph(model: nn.Module, inputs: Inputs) -> Graph | None:
    try:
        return record(model, inputs, training=True)
    except HeadSwapError:
        return None


@dataclass(frozen=True)
class _FreezeVerifier:
    """Search the data flow for violations of the freeze.

    `head_tensors` are the tensors of the heads, `head_modules` the paths of their modules.
    """

    head_tensors: set[str]
    head_modules: set[str]

    def nondeterministic_nodes(self, graph: Graph | None) -> list[Node]:
        """Return the operations before a head that draw random numbers or use batch statistics."""
        if graph is None:
            return []
        heads = set(Tracer(graph).uses_of(self.head_tensors))
        before = ancestors(value for node in heads for value in node.inputs if value.from_input)
        return [node for node in before - heads if node.module not in self.head_modules and is_nondeterministic(node)]

    def written_tensors(self, graph: Graph | None) -> list[str]:
        """Return the first tensors of the backbone that forward writes to."""
        mutated = graph.mutated if graph is not None else ()
        return [name for name in mutated if name not in self.head_tensors][:_MAX_NAMED]

    def verify(self, graph: Graph | None) -> None:
        """Raise HeadSwapError `not_freezable` if there is a violation, and name the tensor or operation."""
        if graph is None:
            return
        if written := self.written_tensors(graph):
            raise HeadSwapError(
                "not_freezable",
                f"forward writes to {', '.join(written)} even in eval mode: write only if self.training is true",
            )
        nondeterministic = self.nondeterministic_nodes(graph)
        if nondeterministic:
            where = nondeterministic[0].module or "a forward method"
            raise HeadSwapError(
                "not_freezable",
                f"{nondeterministic[0].name} in {where} acts on the features even in eval mode: let it depend on "
                "self.training",
            )
