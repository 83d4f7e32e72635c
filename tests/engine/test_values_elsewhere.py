"""A model whose parameters are sharded, offloaded or partitioned is refused before the swap, and says what to do."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from pytest_headswap.engine import HeadSwapError, find_heads, freeze_backbone, swap_head


def net() -> Any:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def check_refused(model: nn.Module, advice: str) -> None:
    """Check that every function of the engine refuses the model and leaves its parameters."""
    before = [(name, id(value), value.requires_grad) for name, value in model.named_parameters()]
    for call in (find_heads, lambda m, x: swap_head(m, 5, x), freeze_backbone):
        with pytest.raises(HeadSwapError, match=advice) as caught:
            call(model, torch.randn(4, 8))
        assert caught.value.reason == "unsupported_model"
    assert [(name, id(value), value.requires_grad) for name, value in model.named_parameters()] == before


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def sharded(model: Any) -> Any:
    importlib.import_module("torch.distributed.fsdp").fully_shard(model)
    return model


def sharded_head_only(model: Any) -> Any:
    importlib.import_module("torch.distributed.fsdp").fully_shard(model[3])
    return model


def distributed_weights(model: Any) -> Any:
    tensor: Any = importlib.import_module("torch.distributed.tensor")
    mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            module._parameters[name] = nn.Parameter(tensor.distribute_tensor(value.data, mesh))
    return model


@pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("shard", [sharded, sharded_head_only, distributed_weights])
@pytest.mark.usefixtures("one_process")
def test_a_model_that_is_sharded_first_is_refused(shard: Callable[[Any], Any]) -> None:
    if not hasattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("this version of torch has no fully_shard")
    check_refused(shard(net()), "swap the head and freeze first, then shard the model")


def offload_by_wrapping(model: Any) -> Any:
    """Move the values away, and load them in a forward of the module's own, like accelerate."""
    for layer in (model[0], model[3]):
        values = {name: value.data for name, value in layer._parameters.items()}
        layer.to("meta")

        def forward(layer: Any, values: dict[str, Tensor], x: Tensor) -> Any:
            return nn.functional.linear(x, values["weight"], values["bias"])

        layer.forward = functools.partial(forward, layer, values)
    return model


def offload_by_hooks(model: Any) -> Any:
    for layer in (model[0], model[3]):
        values = {name: value.data for name, value in layer._parameters.items()}
        layer.to("meta")

        def load(layer: Any, _: Any, values: dict[str, Tensor] = values) -> None:
            layer._parameters.update({name: nn.Parameter(value) for name, value in values.items()})

        layer.register_forward_pre_hook(load)
    return model


@pytest.mark.parametrize("offload", [offload_by_wrapping, offload_by_hooks])
def test_an_offloaded_model_is_refused(offload: Callable[[Any], Any]) -> None:
    check_refused(offload(net()), r"the values of 0\.weight are stored elsewhere .* first, then offload the model")


@pytest.mark.parametrize("name", ["cpu_offload", "disk_offload", "dispatch_model"])
def test_a_model_that_accelerate_offloads_is_refused(name: str, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    options: dict[str, Any] = {
        "cpu_offload": {"execution_device": "cpu"},
        "disk_offload": {"offload_dir": str(tmp_path), "execution_device": "cpu"},
        "dispatch_model": {
            "device_map": {"0": "cpu", "1": "cpu", "3": "disk"},
            "main_device": "cpu",
            "offload_dir": str(tmp_path),
        },
    }
    model = getattr(accelerate, name)(net(), **options[name])
    check_refused(model, "first, then offload the model")


def test_partitioned_parameters_are_refused() -> None:
    model = net()
    for value in model.parameters():
        value.data = torch.empty(0)
    check_refused(model, "their values are partitioned over processes: swap the head and freeze first")


# --- what must not be refused


def test_models_on_the_meta_device_are_swapped() -> None:
    with torch.device("meta"):
        models = [net(), nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 16)), nn.Linear(16, 10))]
    assert [swap_head(model, 5, torch.randn(4, 8)).num_classes for model in models] == [5, 5]


def test_a_forward_that_a_module_chooses_itself_is_not_taken_for_offloading() -> None:
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 10)
            self.scale = nn.Parameter(torch.ones(8))
            self.forward = self.scaled

        def scaled(self, x: Tensor) -> Any:
            return self.fc(x * self.scale)

    with torch.device("meta"):
        assert swap_head(Chooses(), 5, torch.randn(4, 8)).heads[0].path == "fc"


def test_an_empty_parameter_beside_others_is_kept() -> None:
    model = net()
    model.device_marker = nn.Parameter(torch.empty(0))
    assert swap_head(model, 5, torch.randn(4, 8)).heads[0].path == "3"


def test_a_frozen_model_shows_itself_after_it_was_sharded_or_offloaded() -> None:
    model = net()
    frozen = freeze_backbone(swap_head(model, 5, torch.randn(4, 8)))
    offload_by_hooks(model)
    assert repr(frozen).startswith("FrozenBackbone(Sequential")
