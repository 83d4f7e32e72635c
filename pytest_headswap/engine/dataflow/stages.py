"""Divide the backbone of a model into stages, ordered by the data flow from the head back to the inputs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from statistics import mean

from torch import nn

from pytest_headswap.engine.dataflow.before_heads import HeadNames, before_heads, head_calls
from pytest_headswap.engine.dataflow.graph import Graph, Node
from pytest_headswap.engine.dataflow.tensors_met import tensors_met
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

    def __init__(self, model: nn.Module, graph: Graph, heads: HeadNames) -> None:
        self._model, self._heads = model, heads
        inside = {node for node in graph.nodes if node.module in heads.modules}
        self._calls = inside.union(head_calls(graph, heads))
        before = before_heads(graph, heads)
        self._nodes = [node for node in graph.nodes if node in before or node in self._calls]
        names = {name for name, _ in named_parameters(model)}
        self._met, self._own = (
            {node: [name for name in found[node] if name in names] for node in found.keys() & before}
            for found in (tensors_met(graph), tensors_met(graph, shared=False))
        )
        stages, others = self._divide("")
        others = self._split(stages, [*others, *self._tensors_between([*stages, *others])])
        nearest, farthest = self._depths(stages, others)
        size = mean(map(self._numel, stages)) if stages else 0
        stages += [
            path
            for path in others
            if nearest.get(path) == farthest.get(path) and self._numel(path) >= size and self._mixes_features(path)
        ]
        nearest, farthest = self._depths(stages, others)
        steps = sorted({nearest[path] for path in stages if path in nearest})  # with gaps if stages run in turns
        depths = farthest | {path: nearest[path] for path in stages if path in nearest}
        self.depths = {path: bisect_left(steps, depth) for path, depth in depths.items()}

    def last(self, count: int) -> list[str]:
        """Return the paths of the modules and parameters of the last `count` stages before the heads."""
        return [path for path, depth in self.depths.items() if depth < count]

    def in_order(self) -> list[list[str]]:
        """Return the parameters of each stage, from the inputs to the heads."""
        found: list[list[str]] = [[] for _ in range(self.count)]
        for name in sorted(self._names):
            depth = max((depth for path, depth in self.depths.items() if is_within(name, path)), default=None)
            if depth is not None:
                found[-1 - depth].append(name)
        return [names for names in found if names]

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
        if not opened and len(set(self._depths(stages, ())[0].values())) == 1:
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

    def _split(self, stages: Collection[str], others: Sequence[str]) -> list[str]:
        """Divide parts that run at several depths, such as a list with one layer for each stage."""
        while True:
            nearest, farthest = self._depths(stages, others)
            divided = {path: self._kids(path) for path in others if nearest.get(path) != farthest.get(path)}
            if not any(divided.values()):
                return list(others)
            others = [part for path in others for part in divided.get(path) or [path]]

    def _depths(self, stages: Collection[str], others: Collection[str]) -> tuple[dict[str, int], dict[str, int]]:
        """Return the number of stages between each part and the heads, from its last and from its first operation."""
        nearest: dict[str, int] = {}
        farthest: dict[str, int] = {}
        state: dict[Node, tuple[int, str]] = {}
        for node in reversed(self._nodes):
            behind = [state[user] for value in node.outputs for user in value.users if user in state]
            if node in self._calls:
                state[node] = max(behind, default=(0, ""))
            elif behind:
                own = _part_of(node, self._own, stages)
                if own:
                    state[node] = max(count + (stage != own) for count, stage in behind), own
                else:
                    state[node] = max(behind)
                part, depth = (own, state[node][0] - 1) if own else (_part_of(node, self._met, others), state[node][0])
                if part:
                    nearest[part] = min(nearest.get(part, depth), depth)
                    farthest[part] = max(farthest.get(part, depth), depth)
        return nearest, farthest


def is_within(name: str, path: str) -> bool:
    """Return whether a module or tensor is the one at `path` or inside of it."""
    return name == path or name.startswith(f"{path}.")


def _part_of(node: Node, met: dict[Node, list[str]], paths: Iterable[str]) -> str:
    return next((path for path in paths if any(is_within(name, path) for name in met.get(node, ()))), "")
