"""Divide the backbone of a model into stages, ordered by the data flow from the head back to the inputs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from statistics import mean

from torch import nn

from pytest_headswap.engine.dataflow.graph import Graph, Node, Value
from pytest_headswap.engine.freezing.watched_graph import HeadNames, WatchedGraph
from pytest_headswap.engine.pytorch.modules import get_registered_tensor, named_parameters, owner_path

_DOMINANT = 0.8  # share of the layers in one module from which on that module is divided rather than its parent


class Stages:
    """The stages of a backbone.

    A stage is a module that runs in sequence with others of its kind: `layer1` to `layer4` of a ResNet, or a block of a
    transformer. These modules are found by descending from the model to the module with most layers, until it has
    another one of its class or depth beside it. A module of another kind is a stage too if it has at least as many
    parameters as these have on average. Smaller ones belong to the stage before them, such as a last norm. Whatever
    runs before the first stage, such as a stem, is a stage as well.

    Attributes:
        depths: for each module or parameter of a stage, by path, the number of stages between it and the heads.
    """

    def __init__(self, model: nn.Module, watched: WatchedGraph, heads: HeadNames) -> None:
        self._model, self._heads = model, heads
        inside = {node for node in watched.graph.nodes if node.module in heads.modules}
        self._calls = inside.union(watched.head_calls(heads))
        before = watched.before_heads(heads)
        self._nodes = [node for node in watched.graph.nodes if node in before or node in self._calls]
        names = {name for name, _ in named_parameters(model)}
        met = tensors_met(watched.graph)
        self._met = {node: [name for name in met[node] if name in names] for node in met.keys() & before}
        stages, others = self._divide("")
        size = mean(map(self._numel, stages)) if stages else 0
        large = [path for path in others if self._numel(path) >= size and self._mixes_features(path)]
        stages += large
        depths = self._depths(stages, [*others, *self._tensors_between([*stages, *others])])
        steps = sorted({depths[path] for path in stages if path in depths})  # with gaps if stages run in turns
        self.depths = {path: bisect_left(steps, depth) for path, depth in depths.items()}

    def last(self, count: int) -> list[str]:
        """Return the paths of the modules and parameters of the last `count` stages before the heads."""
        return [path for path, depth in self.depths.items() if depth < count]

    @property
    def count(self) -> int:
        """Return the number of stages."""
        return max(self.depths.values(), default=-1) + 1

    @cached_property
    def _names(self) -> set[str]:
        """Return the parameters that the features depend on."""
        return {name for names in self._met.values() for name in names}

    def _divide(self, path: str) -> tuple[list[str], list[str]]:
        """Return the stages within a module, and its other parts."""
        kids = self._kids(path)
        if not kids:
            return ([path], []) if path else ([], [])
        main = max(kids, key=lambda kid: len(self._layers(kid)))
        height, kind = self._height(main), type(self._model.get_submodule(main))
        alike = [
            kid
            for kid in kids
            if self._height(kid) == height or (self._height(kid) > 1 and type(self._model.get_submodule(kid)) is kind)
        ]
        stages = [kid for kid in alike if self._mixes_features(kid)]
        layers = len(self._layers(main)) / sum(len(self._layers(kid)) for kid in kids)
        opened = [main] if len(stages) < 2 or layers > _DOMINANT else []
        if not opened and len(set(self._depths(stages, ()).values())) == 1:
            opened = stages  # they run in parallel
        if not opened or not any(map(self._kids, opened)):
            return (stages or [main]), [kid for kid in kids if kid not in (stages or [main])]
        divided = [self._divide(kid) for kid in opened]
        others = [kid for kid in kids if kid not in opened]
        return [s for inner, _ in divided for s in inner], [*others, *(o for _, rest in divided for o in rest)]

    def _kids(self, path: str) -> list[str]:
        """Return the children with parameters that the features depend on. A child with a head inside is divided."""
        found: dict[nn.Module, str] = {}
        for name, child in self._model.get_submodule(path)._modules.items():
            full = f"{path}.{name}".lstrip(".")
            if child is None or child in found or full in self._heads.modules or not self._layers(full):
                continue
            if any(f"{head}.".startswith(f"{full}.") for head in self._heads.modules):
                found.update((self._model.get_submodule(kid), kid) for kid in self._kids(full))
            else:
                found[child] = full
        return list(found.values())

    def _layers(self, path: str) -> set[str]:
        """Return the modules within a module that own parameters which the features depend on."""
        return {owner_path(name) for name in self._within(path)}

    def _height(self, path: str) -> int:
        return max(layer.count(".") - path.count(".") if layer != path else 0 for layer in self._layers(path))

    def _within(self, path: str) -> list[str]:
        return [name for name in self._names if not path or is_within(name, path)]

    def _numel(self, path: str) -> int:
        return sum(get_registered_tensor(self._model, name).numel() for name in self._within(path))

    def _mixes_features(self, path: str) -> bool:
        """Return whether a module has a weight with several dimensions, unlike norms."""
        return any(get_registered_tensor(self._model, name).dim() > 1 for name in self._within(path))

    def _tensors_between(self, paths: Sequence[str]) -> list[str]:
        """Return the parameters that belong to none of these modules, such as those of the model itself."""
        return [name for name in sorted(self._names) if not any(is_within(name, path) for path in paths)]

    def _depths(self, stages: Collection[str], others: Collection[str]) -> dict[str, int]:
        """Return the number of stages between each part and the heads, on the longest way from its last operation."""
        depths: dict[str, int] = {}
        state: dict[Node, tuple[int, str]] = {}
        for node in reversed(self._nodes):
            behind = [state[user] for value in node.outputs for user in value.users if user in state]
            if node in self._calls:
                state[node] = max(behind, default=(0, ""))
            elif behind:
                own = _part_of(node, self._met, stages)
                if own:
                    count = max(count + (stage != own) for count, stage in behind)
                    depths[own] = min(depths.get(own, count), count - 1)
                    state[node] = count, own
                else:
                    state[node] = max(behind)
                    if other := _part_of(node, self._met, others):
                        depths[other] = min(depths.get(other, state[node][0]), state[node][0])
        return depths


def is_within(name: str, path: str) -> bool:
    """Return whether a module or tensor is the one at `path` or inside of it."""
    return name == path or name.startswith(f"{path}.")


def _part_of(node: Node, met: dict[Node, list[str]], paths: Iterable[str]) -> str:
    return next((path for path in paths if any(is_within(name, path) for name in met.get(node, ()))), "")


def tensors_met(graph: Graph) -> dict[Node, list[str]]:
    """Return the parameters and buffers that, or whose derived values, meet the input in each operation."""
    carried: dict[Value, list[str]] = {}
    met: dict[Node, list[str]] = {}
    for node in graph.nodes:
        names = [n for value in node.inputs if not value.from_input for n in carried.get(value, value.names)]
        if not names:
            continue
        for output in node.outputs:
            if output.from_input:
                met[node] = names
            else:
                carried[output] = names
    return met
