"""Find heads that are a list of layers, one for each label, whose results are stacked along the class dimension."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import nn

from pytest_headswap.engine.dataflow.assembled import own_nodes, parts_of
from pytest_headswap.engine.dataflow.dim_tracer import ClassAxis, Trace, Tracer
from pytest_headswap.engine.dataflow.graph import PARAMETER, Graph, Node, Value, ancestors
from pytest_headswap.engine.detection.candidates import OutputDim
from pytest_headswap.engine.detection.describe import OTHER, ClassTensor, DetectedHead
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.modules import named_modules
from pytest_headswap.head import Head, PathStep

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def find_label_lists(model: nn.Module, graphs: Sequence[Graph], tracers: Sequence[Tracer]) -> list[DetectedHead]:
    """Return each `nn.ModuleList` whose layers compute one index of a class dimension each.

    Raises:
        HeadSwapError: `unsupported_layer`, for an `nn.ModuleDict`, whose keys name the labels, and for parameters.
    """
    lists: dict[str, DetectedHead] = {}
    for graph, tracer in zip(graphs, tracers, strict=True):
        for item in _find_in(model, graph, tracer):
            known = lists.setdefault(item.head.path, item)
            lists[item.head.path] = replace(known, outputs=tuple(dict.fromkeys((*known.outputs, *item.outputs))))
    return list(lists.values())


def _find_in(model: nn.Module, graph: Graph, tracer: Tracer) -> Iterator[DetectedHead]:
    for label, value in graph.outputs.items():
        for dim in reversed(range(len(value.shape))):
            size = value.shape[dim]
            if size < 2:
                continue
            trace = tracer.trace_back(ClassAxis(value, dim), size)
            for axis in trace.axes if not trace.from_input else ():
                node = axis.value.node
                parts = parts_of(node, axis.dim) if node is not None and axis.inner == 1 else []
                found = _container(model, parts, tracer) if len(parts) == size else None
                if found is not None:
                    path, in_features = found
                    item = OutputDim(label, dim, size, graph.training)
                    yield _describe(model, path, in_features, trace, item, value.shape)


def _container(model: nn.Module, parts: Sequence[Value], tracer: Tracer) -> tuple[str, int] | None:
    """Return the path of the container with one layer for each part, and the number of features that a layer reads."""
    own = list(own_nodes(parts))
    names = [sorted(_parameters_used(nodes, tracer)) for nodes in own]
    if not all(names):
        return None
    for path, module in named_modules(model):
        keys = list(module._modules or module._parameters) if type(module) in _CONTAINERS else []
        if len(keys) != len(parts) or not names[0][0].startswith(f"{path}."):
            continue
        prefixes = [{name[len(path) + 1 :].split(".")[0] for name in used} for used in names]
        within = all(name.startswith(f"{path}.") for used in names for name in used)
        if within and all(len(keys_used) == 1 for keys_used in prefixes) and set().union(*prefixes) == set(keys):
            if type(module) in (nn.ParameterList, nn.ParameterDict):
                raise HeadSwapError(
                    "unsupported_layer",
                    f"{path} holds one parameter for each label: stack them into one parameter, with a row for each "
                    "label",
                )
            if type(module) is nn.ModuleDict:
                raise HeadSwapError(
                    "unsupported_layer",
                    f"{path} holds one layer for each label under a name of its own, and the names of new labels are "
                    "unknown: add and remove its entries yourself",
                )
            return path, max((_features(node, tracer) for node in own[0]), default=0)
    return None


def _parameters_used(nodes: set[Node], tracer: Tracer) -> set[str]:
    """Return the parameters that only these operations use with data from the input."""
    used: set[str] = set()
    values = [value for node in nodes for value in node.inputs if not value.from_input]
    sources = {source for node in ancestors(values) for source in node.inputs} | set(values)
    for source in sources:
        if source.origin == PARAMETER and nodes.issuperset(tracer.uses_with_input(source)):
            used.add(source.name)
    return used


def _features(node: Node, tracer: Tracer) -> int:
    pairs = tracer.relation_of(node).contracted
    return next((node.inputs[a].shape[dim] for pair in pairs for a, dim in pair if node.inputs[a].from_input), 0)


def _describe(
    model: nn.Module, path: str, in_features: int, trace: Trace, output: OutputDim, shape: tuple[int, ...]
) -> DetectedHead:
    layer = model.get_submodule(f"{path}.0")
    sources = [axis for axis in trace.sources if axis.value.origin == PARAMETER]
    after = [ClassTensor(x.value.names, x.dim, x.outer(output.size), x.inner, False, OTHER) for x in sources]
    own = [f"{path}.{name}" for name, _ in model.get_submodule(path).named_parameters()]
    evidence = (
        f"dimension {output.dim} of {output.label} (size {output.size}) holds the results of the layers in {path}",
        f"each of them is a {type(layer).__name__} that reads {in_features} features computed from the input",
    )
    head = Head(
        path,
        "list",
        in_features,
        output.size,
        output.dim,
        tensors=(*own, *(item.names[0] for item in after)),
        outputs=(output.label,),
        evidence=evidence,
        path_to_output=(
            PathStep("head", path, "ModuleList"),
            PathStep("output", output.label, "", shape),
        ),
    )
    return DetectedHead(head, tuple(after), (output,), label_list=path)
