"""The outputs that hold the classes of a head. A model may instead return only what it chose from them."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_headswap.case.finding import CheckSkipped
from pytest_headswap.engine import Head


def class_output_labels(heads: Iterable[Head]) -> set[str]:
    """Return the labels of the outputs that have a class dimension."""
    return {label for head in heads for label in head.class_outputs}


def skip_without_class_output(heads: Iterable[Head], model: str) -> None:
    """Raise `CheckSkipped` if every head reaches an output, but none of these outputs has a class dimension."""
    heads = tuple(heads)
    if heads and all(head.outputs and not head.class_outputs for head in heads):
        raise CheckSkipped(
            "no_class_output",
            f"{model} returns only what it chose from the classes, such as by arg-max: return the logits too, so that "
            "the head can be trained and checked",
        )
