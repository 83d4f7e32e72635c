"""Models that compute with values are run with fake tensors or, last of all, for real; the result says which."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, abstract_run, find_heads, swap_head
from pytest_headswap.engine.pytorch.inputs import Inputs


class Shapes(nn.Module):
    """Needs no values."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LSTM(8, 16, batch_first=True)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.prepare(x))[0][:, -1])  # type: ignore[no-any-return]

    def prepare(self, x: Tensor) -> Tensor:
        return x


class Constants(Shapes):
    """Computes a number from constants on a device that it names."""

    def prepare(self, x: Tensor) -> Tensor:
        scale = torch.tensor([2.0], device="cpu")
        return x * float(scale.item()) + torch.ones(8, device="cpu")


class Moved(Shapes):
    """Moves its features into a tensor on a device that it names."""

    def prepare(self, x: Tensor) -> Tensor:
        moved = torch.empty(x.shape, device="cpu")
        moved[:, 0], moved[:, 1:] = x[:, -1], x[:, :-1]
        return moved


class Values(Shapes):
    """Branches on the values of its inputs."""

    def prepare(self, x: Tensor) -> Tensor:
        return x * 2 if bool((x > 0).any()) else x


@pytest.mark.parametrize(("kind", "way"), [(Shapes, "meta"), (Constants, "meta"), (Moved, "fake"), (Values, "real")])
def test_the_cheapest_way_that_works_is_taken_and_said(kind: type[Shapes], way: str) -> None:
    model, inputs = kind(), torch.randn(2, 3, 8)
    heads = find_heads(model, inputs)
    assert [head.path for head in heads] == ["fc"]
    assert heads.tensor_kind == way
    swap_head(model, 3, inputs)
    assert model(inputs).shape == (2, 3)


def test_what_was_moved_from_meta_to_the_cpu_is_not_read_there() -> None:
    class Sorted(Moved):
        def prepare(self, x: Tensor) -> Tensor:
            moved = super().prepare(x)
            assert moved.sum().item() != 0, "these are no values"
            return moved

    assert find_heads(Sorted(), torch.ones(2, 3, 8)).tensor_kind == "real"


@pytest.mark.parametrize("kind", [Constants, Moved, Values])
def test_every_way_leaves_the_model_as_it_was(kind: type[Shapes]) -> None:
    class Writes(kind):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(8)
            self.drop = nn.Dropout(0.5)
            self.calls = 0

        def prepare(self, x: Tensor) -> Tensor:
            self.calls += 1
            x.add_(1)
            prepared: Tensor = super().prepare(self.drop(self.bn(x.transpose(1, 2)).transpose(1, 2)))
            return prepared

    model, inputs = Writes(), torch.randn(2, 3, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy, rng = inputs.clone(), torch.get_rng_state()
    find_heads(model, inputs)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(inputs, copy)
    assert torch.equal(torch.get_rng_state(), rng)
    assert (model.calls, model.training) == (0, True)


def test_a_model_on_meta_that_needs_values_is_an_error_and_not_a_guess() -> None:
    with torch.device("meta"):
        model = Values()
    with pytest.raises(HeadSwapError) as caught:
        find_heads(model, torch.randn(2, 3, 8, device="meta"))
    assert caught.value.reason == "forward_failed"
    assert caught.value.message.endswith("build the model on a real device: tensors on the meta device have no values")


def test_the_attention_of_torch_is_seen_through_in_every_way() -> None:
    class Attends(Values):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def prepare(self, x: Tensor) -> Tensor:
            return super().prepare(self.layer(x))

    enabled = torch.backends.mha.get_fastpath_enabled()
    assert [head.path for head in find_heads(Attends(), torch.randn(2, 3, 8))] == ["fc"]
    assert torch.backends.mha.get_fastpath_enabled() == enabled


def test_a_chosen_way_is_the_only_one_that_is_tried() -> None:
    model: Any = Values()
    with pytest.raises(HeadSwapError):
        abstract_run(model, Inputs((torch.randn(2, 3, 8),)), tensor_kinds=("meta",))
    assert abstract_run(model, Inputs((torch.randn(2, 3, 8),)), tensor_kinds=("real",)).tensor_kind == "real"
