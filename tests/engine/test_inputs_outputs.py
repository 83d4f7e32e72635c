"""Nested containers: tensors of the inputs are found and replaced, tensors of the outputs get readable labels."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pytest_headswap.engine import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs, read_inputs
from pytest_headswap.engine.pytorch.outputs import flatten_outputs

ONE, TWO = torch.ones(1), torch.ones(2)


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass
class Output:
    logits: Any
    hidden: Any = None


@pytest.mark.parametrize(
    "value",
    [
        [ONE, TWO],
        (ONE, [TWO]),
        {"a": ONE, "b": (TWO, "text")},
        OrderedDict(b=ONE, a=TWO),
        Pair(ONE, {"c": TWO, "d": 3}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_tensor_in_a_container_is_found_and_replaced(value: Any) -> None:
    inputs = Inputs((value,))
    assert [len(tensor) for tensor in inputs.tensors()] == [1, 2]
    changed = inputs.map_tensors(torch.zeros_like)
    assert type(changed.args[0]) is type(value)
    assert [tensor.sum() for tensor in changed.tensors()] == [0, 0]
    assert [tensor.sum() for tensor in inputs.tensors()] == [1, 2]


def test_other_values_in_a_container_stay_the_same() -> None:
    other = object()
    assert Inputs((torch.Size([2]),), {"x": [other, None]}).map_tensors(torch.zeros_like) == Inputs(
        (torch.Size([2]),), {"x": [other, None]}
    )


@pytest.mark.parametrize("given", [ONE, (ONE,), [ONE], {"x": ONE}, UserDict(x=ONE), Inputs((ONE,))])
def test_example_inputs_become_arguments(given: Any) -> None:
    inputs = read_inputs(given)
    assert inputs is not None
    assert [*inputs.args, *inputs.kwargs.values()] == [ONE]


def test_without_example_inputs_there_are_no_arguments() -> None:
    assert read_inputs(None) is None


@pytest.mark.parametrize("given", ["text", 3, {1: ONE}, (), ("text",)])
def test_example_inputs_that_no_forward_takes_are_refused(given: Any) -> None:
    with pytest.raises(HeadSwapError) as caught:
        read_inputs(given)
    assert caught.value.reason == "bad_inputs"


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        (ONE, ["output"]),
        ((ONE, [TWO]), ["output[0]", "output[1][0]"]),
        ({"b": ONE, "a": (TWO,)}, ["output['b']", "output['a'][0]"]),
        (UserDict(x=ONE), ["output['x']"]),
        (Pair(ONE, {"c": TWO}), ["output.first", "output.second['c']"]),
        (Output(ONE, Output(TWO)), ["output.logits", "output.hidden.logits"]),
        (torch.zeros(2, 3).max(1), ["output[0]", "output[1]"]),
        ([None, "text", Output], []),
    ],
)
def test_a_label_is_the_expression_for_a_tensor(outputs: Any, labels: list[str]) -> None:
    pairs = flatten_outputs(outputs)
    assert [label for label, _ in pairs] == labels
    for label, tensor in pairs:
        found: Tensor = eval(label, {"output": outputs})
        assert found is tensor
