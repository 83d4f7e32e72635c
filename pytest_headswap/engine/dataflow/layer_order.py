"""Divide the parameters of a model into layers, in the order in which the data flows through them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from pytest_headswap.engine.dataflow.before_heads import HeadNames
from pytest_headswap.engine.dataflow.graph import Graph, Node, Value
from pytest_headswap.engine.dataflow.stages import Stages
from pytest_headswap.engine.dataflow.tensors_met import tensors_met
from pytest_headswap.engine.pytorch.modules import get_registered_tensor, modules, named_parameters, owner_path

_MANY = 20  # weights in one layer, more than in a block of a usual network
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass
class _Region:
    """The operations between two values through which all data passes, such as a residual block.

    `names` are the parameters that the operations use. `projects` tells that one of these is a weight which combines
    features; norms, biases, scales and position embeddings do not.
    """

    names: dict[str, None] = field(default_factory=dict)
    projects: bool = False


def layers_in_order(model: nn.Module, graph: Graph, heads: HeadNames) -> list[list[str]]:
    """Return the names of the parameters of each layer of the backbone, from the inputs to the heads.

    A layer is a residual block, or a module of the same class, or else a single layer such as a convolution. What runs
    in parallel, or is skipped by a connection, belongs to one layer. Norms and the like belong to the layer before
    them. A parameter that is used several times belongs to the first layer that uses it.

    If most of the backbone would be one layer, its stages are the layers. That happens where data flows past each
    module, as when a cell reads the outputs of the two cells before it.
    """
    layers = [[name for name in layer if name not in heads.tensors] for layer in _blocks(model, graph)]
    layers = [layer for layer in layers if layer]
    weights = [sum(_is_weight(model, name) for name in layer) for layer in layers]
    return Stages(model, graph, heads).in_order() if is_coarse(weights) else layers


def is_coarse(weights: Sequence[int]) -> bool:
    """Return whether one layer has most of the weights, and more than a block of a usual network."""
    largest = max(weights, default=0)
    return largest > _MANY and 2 * largest > sum(weights)


def _blocks(model: nn.Module, graph: Graph) -> list[list[str]]:
    regions = [region for region in _regions(model, graph) if region.names]
    parents = [_common_path(region.names) for region in regions]
    kinds = Counter(type(module) for module in modules(model))
    blocks = {
        type(model.get_submodule(path))
        for region, path in zip(regions, parents, strict=True)
        if path and len({owner_path(name) for name in region.names}) > 1
    }
    blocks = {kind for kind in blocks if kinds[kind] > 1 and kind not in _CONTAINERS}
    layers: list[list[str]] = []
    seen: set[str] = set()
    last, is_complete = "", True
    for region, parent in zip(regions, parents, strict=True):
        block = next((path for path in _ancestors(parent) if type(model.get_submodule(path)) in blocks), "")
        key = block or parent
        names = [name for name in region.names if name not in seen]
        seen.update(names)
        if layers and ((not region.projects and not block) or (key and key == last) or not is_complete):
            layers[-1] += names
            is_complete |= region.projects
        elif names:
            layers.append(names)
            last, is_complete = key, region.projects or bool(block)
    return layers


def _regions(model: nn.Module, graph: Graph) -> Iterator[_Region]:
    live = graph.live_nodes()
    nodes = [node for node in graph.nodes if node in live]
    parameters = {name for name, _ in named_parameters(model)}
    tensors = tensors_met(graph)
    features: set[Value] = set()  # what depends on both the input and a parameter
    met: dict[Node, list[str]] = {}
    last_use: dict[Value, Node] = {}
    for node in nodes:
        names = [name for name in tensors.get(node, ()) if name in parameters]
        read = [value for value in node.inputs if value in features]
        last_use.update(dict.fromkeys(read, node))
        if names or read:
            met[node] = names
            features.update(value for value in node.outputs if value.from_input)
    region = _Region()
    alive: set[Value] = set()
    before = alive
    for node in nodes:
        if node not in met:
            continue
        region.names.update(dict.fromkeys(met[node]))
        region.projects |= any(_is_weight(model, name) for name in met[node]) and _combines_features(node)
        alive = {value for value in alive if last_use[value] is not node}
        alive.update(value for value in node.outputs if value in last_use)
        if len(alive) <= 1 and (
            alive != before or not alive
        ):  # else only a branch has ended, such as an auxiliary head
            yield region
            region, before = _Region(), alive
    yield region


def _is_weight(model: nn.Module, name: str) -> bool:
    return sum(size > 1 for size in get_registered_tensor(model, name).shape) > 1


def _combines_features(node: Node) -> bool:
    return not node.pointwise and "norm" not in node.name


def _common_path(names: dict[str, None]) -> str:
    """Return the path of the innermost module that contains all of these tensors."""
    first, *others = [owner_path(name).split(".") for name in names]
    count = len(first)
    for parts in others:
        count = next((i for i in range(min(count, len(parts))) if parts[i] != first[i]), min(count, len(parts)))
    return ".".join(first[:count])


def _ancestors(path: str) -> Iterator[str]:
    """Yield the paths of the modules around `path`, outermost first, and `path` itself."""
    parts = path.split(".") if path else []
    return (".".join(parts[: count + 1]) for count in range(len(parts)))
