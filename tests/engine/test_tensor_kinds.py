"""Models that compute with values run on fake tensors or, as a last resort, on real ones. The result says which."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, abstract_run, find_heads, swap_head
from pytest_headswap.engine.pytorch.inputs import Inputs


class Shapes(nn.Module):
    """A model that needs only shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LSTM(8, 16, batch_first=True)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.prepare(x))[0][:, -1])  # type: ignore[no-any-return]

    def prepare(self, x: Tensor) -> Tensor:
        return x


class Constants(Shapes):
    """A model that computes a number from constants on the CPU."""

    def prepare(self, x: Tensor) -> Tensor:
        scale = torch.tensor([2.0], device="cpu")
        return x * float(scale.item()) + torch.ones(8, device="cpu")


class Moved(Shapes):
    """A model that copies its features into a tensor on the CPU."""

    def prepare(self, x: Tensor) -> Tensor:
        moved = torch.empty(x.shape, device="cpu")
        moved[:, 0], moved[:, 1:] = x[:, -1], x[:, :-1]
        return moved


class Values(Shapes):
    """A model that branches on the values of its inputs."""

    def prepare(self, x: Tensor) -> Tensor:
        return x * 2 if bool((x > 0).any()) else x


@pytest.mark.parametrize(
    ("kind", "tensor_kind"), [(Shapes, "meta"), (Constants, "meta"), (Moved, "fake"), (Values, "real")]
)
def test_the_cheapest_tensor_kind_that_works_is_used_and_reported(kind: type[Shapes], tensor_kind: str) -> None:
    model, inputs = kind(), torch.randn(2, 3, 8)
    heads = find_heads(model, inputs)
    assert [head.path for head in heads] == ["fc"]
    assert heads.tensor_kind == tensor_kind
    swap_head(model, 3, inputs)
    assert model(inputs).shape == (2, 3)


def test_a_model_that_reads_values_copied_from_meta_runs_on_real_tensors() -> None:
    class Sorted(Moved):
        def prepare(self, x: Tensor) -> Tensor:
            moved = super().prepare(x)
            assert moved.sum().item() != 0, "read uninitialised memory"
            return moved

    assert find_heads(Sorted(), torch.ones(2, 3, 8)).tensor_kind == "real"


@pytest.mark.parametrize("kind", [Constants, Moved, Values])
def test_no_tensor_kind_leaves_changes_in_the_model(kind: type[Shapes]) -> None:
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


def test_a_meta_model_that_needs_values_raises_an_error() -> None:
    with torch.device("meta"):
        model = Values()
    with pytest.raises(HeadSwapError) as caught:
        find_heads(model, torch.randn(2, 3, 8, device="meta"))
    assert caught.value.reason == "forward_failed"
    assert caught.value.message.endswith("build the model on a real device: tensors on the meta device have no values")


def test_heads_behind_fused_attention_are_found_on_real_tensors() -> None:
    class Attends(Values):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def prepare(self, x: Tensor) -> Tensor:
            return super().prepare(self.layer(x))

    enabled = torch.backends.mha.get_fastpath_enabled()
    assert [head.path for head in find_heads(Attends(), torch.randn(2, 3, 8))] == ["fc"]
    assert torch.backends.mha.get_fastpath_enabled() == enabled


def test_only_the_given_tensor_kinds_are_tried() -> None:
    model: Any = Values()
    with pytest.raises(HeadSwapError):
        abstract_run(model, Inputs((torch.randn(2, 3, 8),)), tensor_kinds=("meta",))
    assert abstract_run(model, Inputs((torch.randn(2, 3, 8),)), tensor_kinds=("real",)).tensor_kind == "real"


def test_a_model_that_needs_values_is_refused_on_the_meta_device() -> None:
    model = nn.Sequential(nn.Linear(8, 10)).to("meta")
    with pytest.raises(HeadSwapError, match="needs values to run") as caught:
        abstract_run(model, Inputs((torch.zeros(2, 8),)), tensor_kinds=("real",))
    assert caught.value.reason == "forward_failed"
