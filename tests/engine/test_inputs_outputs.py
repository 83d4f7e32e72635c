"""Nested containers: tensors of the inputs are found and replaced, tensors of the outputs get readable labels."""

from __future__ import annotations

from collections import OrderedDict, UserDict, deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from pytest_headswap.engine import HeadSwapError, freeze_backbone, swap_head
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


@dataclass(frozen=True, slots=True)
class Sample:
    first: Any
    second: Any


class Store:
    """A storage with a mapping, like those of graph libraries."""

    def __init__(self, **values: Any) -> None:
        self.mapping = dict(values)
        self.owner = self  # a cycle


class Slots:
    __slots__ = ("first", "never_set", "second")


def slots() -> Slots:
    value: Any = Slots()
    value.first, value.second = ONE, TWO
    return value  # type: ignore[no-any-return]


class Named(dict[str, Any]):
    """A mapping of a class of its own."""


@pytest.mark.parametrize(
    "value",
    [
        [ONE, TWO],
        Sample(ONE, Output([TWO])),
        Store(a=ONE, b=Store(c=TWO)),
        slots(),
        Named(a=ONE, b=TWO),
        UserDict(a=ONE, b=TWO),
        deque([ONE, TWO]),
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


@pytest.mark.parametrize("given", ["text", 3, {1: 2}, (), ("text",), Sample(1, None), Store(a=3), nn.Linear(1, 1)])
def test_example_inputs_without_a_tensor_are_refused(given: Any) -> None:
    with pytest.raises(HeadSwapError, match="contains no tensor") as caught:
        read_inputs(given)
    assert caught.value.reason == "bad_inputs"


@pytest.mark.parametrize(
    "given", [Pair(ONE, 2), Sample(ONE, 2), Store(a=ONE), {1: ONE}], ids=lambda it: type(it).__name__
)
def test_an_object_with_tensors_is_the_only_argument(given: Any) -> None:
    inputs = read_inputs(given)
    assert inputs is not None
    assert inputs.args == (given,)


def test_an_object_that_appears_twice_is_copied_once() -> None:
    shared = Store(a=ONE)
    first, second = Inputs((shared, [shared])).map_tensors(torch.zeros_like).args
    assert first is second[0]
    assert first is not shared


def test_an_object_whose_attributes_raise_is_passed_on() -> None:
    class Hostile:
        __slots__ = ()

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(f"no {name}")

    hostile = Hostile()
    assert Inputs((ONE, hostile)).map_tensors(torch.zeros_like).args[1] is hostile


def test_an_object_that_cannot_be_copied_is_refused() -> None:
    class Fixed(Store):
        def __copy__(self) -> Fixed:
            raise TypeError("no copies")

    with pytest.raises(HeadSwapError, match="Fixed with a tensor, which cannot be copied") as caught:
        Inputs((Fixed(a=ONE),)).map_tensors(torch.zeros_like)
    assert caught.value.reason == "bad_inputs"


class Reading(nn.Module):
    """A model that takes its features out of an object."""

    def __init__(self, read: Any) -> None:
        super().__init__()
        self.read, self.body, self.fc = read, nn.Linear(8, 16), nn.Linear(16, 10)

    def forward(self, sample: Any) -> Tensor:
        return self.fc(self.body(self.read(sample)).relu())  # type: ignore[no-any-return]


X = torch.ones(4, 8)


@pytest.mark.parametrize(
    ("sample", "read"),
    [
        (Sample(X, None), lambda sample: sample.first),
        (Pair(X, 3), lambda sample: sample.first),
        (Store(x=X), lambda sample: sample.owner.mapping["x"]),
        (([X, X],), lambda images: torch.stack(images).mean(0)),
        (({"nested": Sample(X, Store(x=X))},), lambda sample: sample["nested"].second.mapping["x"]),
    ],
    ids=["dataclass", "named tuple", "object", "list", "nested"],
)
def test_a_model_is_swapped_and_frozen_on_objects_that_stay_unchanged(sample: Any, read: Any) -> None:
    model = Reading(read)
    swap = swap_head(model, 5, sample)
    freeze_backbone(swap)
    assert [head.path for head in swap.heads] == ["fc"]
    (argument,) = sample if type(sample) is tuple else (sample,)
    assert read(argument) is X or torch.equal(read(argument), X)
    assert model(argument).shape == (4, 5)


def test_a_packed_sequence_is_one_argument() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.fc = nn.LSTM(8, 16), nn.Linear(16, 10)

        def forward(self, packed: Any) -> Tensor:
            return self.fc(self.lstm(packed)[1][0][-1])  # type: ignore[no-any-return]

    packed = pack_sequence([torch.ones(5, 8), torch.ones(3, 8)])
    model = Recurrent()
    swap_head(model, 5, packed)
    assert model(packed).shape == (2, 5)


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


@pytest.mark.parametrize(("given", "advised"), [((4, 8), True), (("a", "text"), False)])
def test_only_numbers_are_taken_for_a_shape(given: Any, advised: bool) -> None:
    with pytest.raises(HeadSwapError) as caught:
        read_inputs(given)
    assert ("torch.zeros(4, 8) for a shape" in caught.value.message) is advised
    assert ("for a shape" in caught.value.message) is advised
