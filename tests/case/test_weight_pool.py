"""Models in shared weight pools: their values, the changes that are reported, and their restoration."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from pytest_headswap.case import weight_pool
from pytest_headswap.case.skip_init import MIN_SKIPPED_ELEMENTS, skip_init_if_possible
from pytest_headswap.case.value_snapshot import ValueSnapshot, bitwise_equal
from pytest_headswap.case.weight_pool import WeightPools


class Wide(nn.Module):
    """Two large layers of equal shape, a small layer, a shared weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(256, 256)
        self.two = nn.Linear(256, 256)
        self.norm = nn.LayerNorm(256)
        self.small = nn.Linear(8, 8)
        self.embed = nn.Embedding(256, 256)
        self.out = nn.Linear(256, 256, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("table", torch.arange(5.0))


class MakesABufferOfAWeight(nn.Module):
    """A model with a buffer computed from a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(256, 256)
        self.register_buffer("mean", self.layer.weight.detach().mean(0))


class Asks(nn.Module):
    """A model that reads the values it has drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(256, 256)
        self.scale = 1 / self.layer.weight.detach().std().item()


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> WeightPools:
    fresh = WeightPools({})
    monkeypatch.setattr("pytest_headswap.case.value_snapshot.WEIGHT_POOLS", fresh)
    return fresh


def _filled(pools: WeightPools) -> Wide:
    lean = skip_init_if_possible(Wide)
    pools.fill(lean)
    assert isinstance(lean.model, Wide)
    return lean.model


def test_only_large_parameters_are_left_uninitialised() -> None:
    lean = skip_init_if_possible(Wide)
    model = lean.model
    without = {name for name, value in model.named_parameters() if lean.is_uninitialized(value)}
    assert without == {"one.weight", "two.weight", "embed.weight"}
    assert all(value.numel() < MIN_SKIPPED_ELEMENTS or lean.is_uninitialized(value) for value in model.parameters())
    assert all(value.is_contiguous() for value in model.parameters()), "layers ask for it before they draw values"
    assert torch.equal(model.get_buffer("table"), torch.arange(5.0))
    assert bool((model.get_parameter("norm.weight") == 1).all())


def test_a_shared_parameter_stays_shared(pools: WeightPools) -> None:
    model = _filled(pools)
    assert model.out.weight is model.embed.weight
    assert float(model.out.weight.detach().std()) > 0


class JoinsWeights(nn.Module):
    """A model that computes a buffer from several weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(256, 256), nn.Linear(256, 256)
        self.register_buffer("both", torch.cat([self.one.weight.detach(), self.two.weight.detach()]))


class ReplacesLayers(nn.Module):
    """A model that deletes layers while it is built: a buffer may reuse their memory."""

    def __init__(self) -> None:
        super().__init__()
        for _ in range(8):
            self.layer = nn.Linear(256, 256)
            del self.layer
            self.register_buffer("table", torch.empty(256, 256).fill_(3))


def test_a_buffer_in_the_memory_of_a_deleted_layer_keeps_its_values() -> None:
    model = skip_init_if_possible(ReplacesLayers).model
    assert bool((model.get_buffer("table") == 3).all())


class CatchesWhatItAsksFor(nn.Module):
    """A model that builds itself differently if there are no values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(256, 256)
        try:
            self.scale = self.layer.weight.sum().item()
        except Exception:  # noqa: BLE001 - as careless as can be
            self.scale = 0.0


class MakesASmallParameterOfAWeight(nn.Module):
    """A model with a small parameter computed from a weight, as in weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(256, 256)
        self.g = nn.Parameter(self.layer.weight.detach().norm(dim=1))


class TracksWhatItRan(nn.Module):
    """A model that runs in train mode while it is built, so that its statistics depend on its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(256, 256), nn.BatchNorm1d(256)
        self.norm(self.layer(torch.ones(4, 256)))


class KeepsAnExample(nn.Module):
    """A model that keeps one of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(256, 256)
        self.example = [self.layer(torch.ones(4, 256))]


NEED_VALUES = [
    *(MakesABufferOfAWeight, Asks, JoinsWeights),
    *(CatchesWhatItAsksFor, MakesASmallParameterOfAWeight, TracksWhatItRan, KeepsAnExample),
]


@pytest.mark.parametrize("build", NEED_VALUES)
def test_a_model_that_needs_values_to_be_built_is_initialised(build: type[nn.Module]) -> None:
    assert not skip_init_if_possible(build).uninitialized


class RunsItselfToCountFeatures(nn.Module):
    """A model that needs only an output shape while it is built, as in hybrid vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 16, 8), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3))
        with torch.no_grad():
            features = self.stem.eval()(torch.zeros(1, 3, 64, 64))
        self.stem.train()
        self.fc = nn.Linear(features.shape[1] * features.shape[2] ** 2, 256)


def test_a_model_may_run_a_part_of_itself_while_it_is_built() -> None:
    lean = skip_init_if_possible(RunsItselfToCountFeatures)
    model = lean.model
    assert {name for name, value in model.named_parameters() if lean.is_uninitialized(value)} == {
        *("stem.0.weight", "stem.3.weight", "fc.weight")
    }
    assert model.get_parameter("fc.weight").shape == (256, 64 * 25)
    assert bool((model.get_buffer("stem.1.running_mean") == 0).all())


class MakesABufferOnTheDeviceOfAWeight(nn.Module):
    """A model that reads the device of a large parameter and copies layers."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(256, 256)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        layer.weight.data.mul_(2)
        self.layers = nn.ModuleList([layer, copy.deepcopy(layer)]).to(torch.bfloat16)
        self.register_buffer("table", torch.arange(5.0, device=layer.weight.device))
        self.bias = nn.Parameter(torch.zeros_like(layer.weight)[0])


def test_a_model_may_use_everything_but_values_while_it_is_built(pools: WeightPools) -> None:
    lean = skip_init_if_possible(MakesABufferOnTheDeviceOfAWeight)
    model = lean.model
    assert [lean.is_uninitialized(model.get_parameter(f"layers.{index}.weight")) for index in (0, 1)] == [True, True]
    assert torch.equal(model.get_buffer("table"), torch.arange(5.0))
    pools.fill(lean)
    one, other = (model.get_parameter(f"layers.{index}.weight") for index in (0, 1))
    assert one.dtype == torch.bfloat16
    assert not torch.equal(one, other)


def test_a_build_without_initialisation_does_not_affect_later_modules() -> None:
    skip_init_if_possible(Wide)
    assert float(Wide().one.weight.detach().std()) > 0


def test_layers_have_different_values_scaled_by_their_inputs(pools: WeightPools) -> None:
    model = _filled(pools)
    assert not torch.equal(model.one.weight, model.two.weight)
    assert float(model.one.weight.detach().std()) == pytest.approx(1 / 16, rel=0.05)


@pytest.mark.parametrize("width", [300, 700, 2000])
def test_the_values_of_a_model_do_not_depend_on_earlier_models(
    pools: WeightPools, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(weight_pool, "_CHUNKS", 1)  # so that all of them lap it
    first = {name: value.detach().clone() for name, value in _filled(pools).named_parameters() if value.dim() > 1}
    other = skip_init_if_possible(lambda: nn.Sequential(*(nn.Linear(width, width) for _ in range(5))))
    pools.fill(other)
    again = dict(_filled(pools).named_parameters())
    assert all(torch.equal(first[name], again[name]) for name in ("one.weight", "two.weight", "embed.weight"))


def test_a_write_through_data_is_reported_and_undone(pools: WeightPools) -> None:
    model = _filled(pools)
    before = model.two.weight.detach().clone()
    snapshot = ValueSnapshot(model)
    assert snapshot.changed() == []
    model.two.weight.data[3, 4] += 1e-6
    assert snapshot.changed() == ["two.weight"]
    assert snapshot.changed(without={"two.weight"}) == []
    snapshot.restore()
    assert snapshot.changed() == []
    assert bitwise_equal(model.two.weight, before)


def test_an_enlarged_pool_shrinks_for_smaller_models(pools: WeightPools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_pool, "_CHUNKS", 1)
    sizes = []
    for width in (256, 2048, 256):
        pools.fill(skip_init_if_possible(lambda: nn.Sequential(*(nn.Linear(width, width) for _ in range(3)))))  # noqa: B023
        sizes.append(sum(item._values.nbytes for item in pools))
    assert sizes[1] > 3 * sizes[0]
    assert sizes[2] <= 3 * sizes[0], "one of each deviation, of the least size"


def test_flipping_every_sign_is_reported(pools: WeightPools) -> None:
    model = _filled(pools)
    snapshot = ValueSnapshot(model)
    model.one.weight.data.neg_()
    assert snapshot.changed() == ["one.weight"]


def test_writes_to_small_tensors_buffers_and_shared_names_are_reported(pools: WeightPools) -> None:
    model = _filled(pools)
    snapshot = ValueSnapshot(model)
    with torch.no_grad():
        model.small.bias.add_(1)
        model.get_buffer("table").neg_()
        model.embed.weight[0, 0] += 1
    assert snapshot.changed() == ["small.bias", "embed.weight", "out.weight", "table"]
    snapshot.restore()
    assert snapshot.changed() == []


def test_a_replaced_or_missing_tensor_is_reported(pools: WeightPools) -> None:
    model = _filled(pools)
    snapshot = ValueSnapshot(model)
    model.register_buffer("table", torch.zeros(5))
    model.one.register_parameter("weight", None)
    model.two.weight = nn.Parameter(model.two.weight.detach().clone())
    assert snapshot.changed() == ["one.weight", "table"], "a copy with the same values has not changed"


def test_a_parameter_larger_than_the_pool_enlarges_it(pools: WeightPools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_pool, "_CHUNKS", 1)
    lean = skip_init_if_possible(lambda: nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024)))
    pools.fill(lean)
    model = lean.model
    assert not torch.equal(model.get_parameter("0.weight"), model.get_parameter("1.weight"))
    snapshot = ValueSnapshot(model)
    with torch.no_grad():
        model.get_parameter("1.weight")[5] = 0
    assert "1.weight" in snapshot.changed()
    snapshot.restore()
    assert snapshot.changed() == []


def test_tensors_are_compared_by_bits() -> None:
    nan = torch.tensor([float("nan"), 0.0])
    assert bitwise_equal(nan, nan.clone())
    assert not bitwise_equal(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not bitwise_equal(torch.zeros(2), torch.zeros(2, dtype=torch.float64))


def test_memory_that_is_never_written_costs_nothing() -> None:
    script = """
import resource
from torch import nn
from pytest_headswap.case.skip_init import skip_init_if_possible
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
skip_init_if_possible(lambda: nn.Sequential(nn.Conv2d(3, 64, 3), nn.Linear(512, 512)))
before = peak()
def layers():
    convolutions = [nn.Conv2d(1024, 1024, 3) for _ in range(20)]
    linear = [nn.Linear(4096, 4096) for _ in range(10)]
    for layer in linear:
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.xavier_uniform_(layer.weight)
    return nn.Sequential(*convolutions, *linear)
lean = skip_init_if_possible(layers)
assert lean.uninitialized
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200, "megabytes, of the 1,400 that the values would take"


def test_a_model_with_the_largest_layer_so_far_uses_only_pools(
    pools: WeightPools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_pool, "_CHUNKS", 1)
    lean = skip_init_if_possible(lambda: nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 4096)))
    pools.fill(lean)
    assert all(pools.pool_of(value) is not None for value in lean.model.parameters() if value.dim() > 1)
    assert ValueSnapshot(lean.model).changed() == []


def test_a_tensor_overlaps_a_chunk_that_has_its_last_element_but_not_the_next_one() -> None:
    pool = weight_pool.WeightPool(2, torch.float32)
    values = torch.empty(weight_pool._CHUNK + 1, device="meta")
    assert pool.overlaps(values, {1})
    assert not pool.overlaps(values[:-1], {1})
