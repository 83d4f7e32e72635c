"""Keep trainable what was prepared for training before the freeze, such as low-rank adapters."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from pytest_headswap.engine.dataflow.graph import Graph, Value
from pytest_headswap.engine.dataflow.stages import is_within
from pytest_headswap.engine.dataflow.tensors_met import tensors_met
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.freezing.awake import AwakeParts, freeze_except, noted_names
from pytest_headswap.engine.freezing.observe import observe
from pytest_headswap.engine.freezing.watched_graph import watch
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.modules import buffers_of, modules, named_modules, named_parameters, parameters_of
from pytest_headswap.engine.pytorch.saved_state import ModuleState

# shares of what is outside of the heads, from which on the rest was left trainable on purpose
_FROZEN_SHARE, _FROZEN_SHARE_WITH_HEAD = 0.9, 0.5


def kept_names(model: nn.Module, heads: AwakeParts, heads_were_frozen: bool, size_at_swap: int) -> frozenset[str]:
    """Return the parameters outside of the heads that stay trainable in a freeze.

    These are the trainable ones of a model that was frozen before: all that a swap found, or at least nine
    tenths of its elements, or the old head and half of its elements or tensors. What `unfreeze` made trainable does not
    count. What an earlier freeze kept does.
    """
    unfrozen, kept = noted_names(model)
    others = [item for item in named_modules(model, include_aliases=True) if item[1] not in heads.modules]
    outside = {name: value for name, value in parameters_of(others) if name not in heads.names}
    trainable = {name for name, value in outside.items() if value.requires_grad and name not in unfrozen}
    values = {id(value): value for value in outside.values()}.values()
    frozen = [value for value in values if not value.requires_grad]
    size = sum(value.numel() for value in frozen)
    share = size / max(1, sum(value.numel() for value in values))
    most = max(share, len(frozen) / max(1, len(values)))
    is_prepared = share >= _FROZEN_SHARE or (heads_were_frozen and most >= _FROZEN_SHARE_WITH_HEAD)
    own = {id(value): value.numel() for name, value in named_parameters(model) if name in heads.names}
    is_extended = 0 < size_at_swap <= size + sum(own.values())
    return frozenset(trainable if is_prepared or is_extended else trainable & kept)


def kept_note(prefix: str, names: Collection[str]) -> str:
    """Return a sentence about the parameters that stay trainable."""
    first = prefix + min(names)
    return (
        f"the model was already frozen except for its heads and {len(names)} other parameters, such as {first}. These "
        "stay trainable. To freeze them too, call requires_grad_(False) on the model before freeze_backbone"
    )


class KeptParts:
    """The modules of parameters that stay trainable.

    A module is awake if all its parameters are kept. So is one without tensors, such as dropout, if what it computes
    meets only kept parameters. A module that also has frozen parameters stays in eval mode.

    Attributes:
        parts: the parameters and modules.
        notes: modules that stay in eval mode although their train mode may differ.
    """

    def __init__(self, model: nn.Module, heads: AwakeParts, names: frozenset[str], inputs: Inputs) -> None:
        self.parts = AwakeParts(names)
        self.notes: tuple[str, ...] = ()
        if not names:
            return
        own, mixed = _divide(model, names)
        feeding = _without_tensors(model, mixed)
        self.parts = _parts(model, names, own | feeding)
        state = ModuleState(model)
        freeze_except(model, heads, self.parts)
        try:
            graph = watch(model, inputs, training=True).graph
            feeding = {path for path in feeding if _feeds_only(graph, path, names)}
            graph.clear()
            readers = [model.get_submodule(path) for path in sorted(mixed) if not _contains(path, heads, model)]
            if observe(model, inputs, training=True, readers=readers).reads_mode:
                kinds = ", ".join(sorted({type(module).__name__ for module in readers})[:3])
                self.notes = (f"modules with both trainable and frozen parameters ({kinds}) stay in eval mode",)
        except HeadSwapError:
            feeding = set()  # the model does not run in train mode: the verification says so
        finally:
            state.restore()
        self.parts = _parts(model, names, own | feeding)


def _parts(model: nn.Module, names: frozenset[str], paths: Collection[str]) -> AwakeParts:
    inside = {module for path in paths for module in modules(model.get_submodule(path))}
    named = [(path, module) for path, module in named_modules(model, include_aliases=True) if module in inside]
    return AwakeParts(names.union(name for name, _ in buffers_of(named)), frozenset(inside))


def _divide(model: nn.Module, names: Collection[str]) -> tuple[set[str], set[str]]:
    """Return the outermost modules whose parameters are all kept, and the modules with other parameters around them."""
    every = [name for name, _ in named_parameters(model)]
    others = {path for name in every if name not in names for path in _around(name)}
    own: set[str] = set()
    mixed: set[str] = set()
    for name in names:
        around = _around(name)
        pure = [path for path in around if path not in others]
        own |= set(pure[:1])
        mixed.add(around[around.index(pure[0]) - 1] if pure else around[-1])
    return own, mixed


def _around(name: str) -> list[str]:
    """Return the paths of all modules around a tensor, the outermost first."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:count]) for count in range(len(parts) + 1)]


def _without_tensors(model: nn.Module, paths: Collection[str]) -> set[str]:
    """Return the children of these modules that have no parameters and no buffers."""
    found = set()
    for path in paths:
        for key, child in model.get_submodule(path)._modules.items():
            if child is not None and not any(m._parameters or m._buffers for m in modules(child)):
                found.add(f"{path}.{key}".lstrip("."))
    return found


def _contains(path: str, heads: AwakeParts, model: nn.Module) -> bool:
    return any(module in heads.modules for module in modules(model.get_submodule(path)))


def _feeds_only(graph: Graph, path: str, names: Collection[str]) -> bool:
    """Return whether only operations with kept parameters read what a module computes."""
    met = tensors_met(graph)
    own = {node for node in graph.nodes if is_within(node.module, path)}
    followed: set[Value] = {value for node in own for value in node.outputs}
    stack = list(followed)
    outputs = set(graph.outputs.values())
    while stack:
        value = stack.pop()
        if value in outputs:
            return False
        for user in value.users:
            if user in own or not set(met.get(user, ())).isdisjoint(names):
                continue
            if user in met or any(x.from_input and x not in followed for x in user.inputs):
                return False
            added = [output for output in user.outputs if output not in followed]
            followed.update(added)
            stack += added
    return bool(own)
