"""How the dimensions of an operation's outputs come from those of its inputs.

A `Link` says that a dimension of an output and a dimension of an input run over the same index, or
share a factor of it (after `view`). `contracted` pairs are summed over together, as in a matrix
product. With these two facts about each operation the class dimension of an output can be followed
back to the layer that sets it. Operations without a rule are taken by their shapes.
"""

from __future__ import annotations

from pytest_headswap.engine.dims import products, reductions, views
from pytest_headswap.engine.dims.links import Link, Relation, broadcasts, by_size, copy, first_only, pointwise, rules
from pytest_headswap.engine.graph import Node

__all__ = ["RULES", "Link", "Relation", "relation"]

RULES = {
    **views.RULES,
    **reductions.RULES,
    **products.RULES,
    **rules(
        (copy, "copy"),
        (first_only, "_softmax _log_softmax softmax log_softmax cumsum roll flip native_dropout _masked_softmax sort"),
        (first_only, "zero fill"),
    ),
}


def relation(node: Node) -> Relation:
    """The relation of the dimensions of one recorded operation."""
    rule = RULES.get(node.name.split("::")[-1].rstrip("_"))
    if rule is not None:
        return rule(node)
    return pointwise(node) if node.pointwise or broadcasts(node) else by_size(node)
