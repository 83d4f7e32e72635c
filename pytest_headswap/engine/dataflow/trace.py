"""What tracing a dimension finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pytest_headswap.engine.dataflow.graph import Node, Value


class ClassAxis(NamedTuple):
    """The class index within dimension `dim` of a tensor.

    The dimension may be larger than the class count, for example anchors * classes. The class index is then the
    factor with stride `inner`.
    """

    value: Value
    dim: int
    inner: int = 1

    def outer(self, size: int) -> int:
        """Return how often the full range of classes repeats in the dimension."""
        return self.value.shape[self.dim] // (size * self.inner)


@dataclass(frozen=True)
class Projection:
    """A product of features with a tensor of the model that gives the output its class dimension."""

    node: Node
    weight: ClassAxis
    features: ClassAxis
    output: ClassAxis

    @property
    def in_features(self) -> int:
        """Return the number of features that are multiplied and summed."""
        return self.features.value.shape[self.features.dim]


@dataclass
class Trace:
    """The result of tracing an output dimension backwards.

    Attributes:
        size: the class count.
        sources: tensors of the model, inputs and constants at which the dimension begins.
        projections: products of features with a weight that sets the dimension.
        obstacles: reason codes and sentences that say why the dimension could not be traced further.
        partial_sources: the operands of the operations where it broke, with the reason code.
        ends: operations whose output has the dimension although none of their operands has it.
        nodes: the traced operations, the last one first.
        merge_points: for a tensor of the model, the operation where it meets data from the input, and its operand index
            there.
        parts: for operations that divide a dimension into equal parts, the indices of the parts that were traced.
        written: operations that write to some positions of the dimension, and their dimension. They are obstacles if
            no projection was found before them.
        unregistered: tensors that take the place of a weight in a projection, but are not the model's.
        axes: all dimensions that run over the class index, as far as they were traced.
    """

    size: int
    sources: list[ClassAxis] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)
    obstacles: list[tuple[str, str]] = field(default_factory=list)
    partial_sources: list[tuple[str, ClassAxis]] = field(default_factory=list)
    ends: list[Node] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    merge_points: dict[ClassAxis, tuple[Node, int]] = field(default_factory=dict)
    parts: dict[tuple[Node, int], set[int]] = field(default_factory=dict)
    written: list[tuple[Node, int]] = field(default_factory=list)
    unregistered: list[ClassAxis] = field(default_factory=list)
    axes: set[ClassAxis] = field(default_factory=set)
    from_input: bool = False
    """Whether an input of the model sets the dimension. Tracing stops there."""
    is_cut: bool = False
    """Whether it is cut out of a longer dimension, or changed in parts."""
