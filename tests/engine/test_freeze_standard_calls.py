"""A frozen backbone stays as it is through the calls of torch that usually follow."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.optim import swa_utils

from pytest_headswap.engine import HeadSwapError, HeadSwapWarning, freeze_backbone, swap_head

WIDTH = 16
Call = Callable[[Any], Any]
convert: Call = nn.SyncBatchNorm.convert_sync_batchnorm
ema: Call = swa_utils.get_ema_multi_avg_fn


class Net(nn.Module):
    """A model whose norms are children of the root and of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.bn = nn.Linear(8, WIDTH), nn.BatchNorm1d(WIDTH)
        self.block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.5))
        self.fc = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.block(torch.relu(self.bn(self.body(x)))))


def frozen_model() -> Any:
    """Return a frozen model whose norms have seen data."""
    torch.manual_seed(0)
    model = Net()
    for _ in range(3):
        model.train()(torch.randn(6, 8))
    freeze_backbone(swap_head(model, 5, torch.randn(6, 8)))
    return model


def train(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        model.train()
        optimizer.zero_grad()
        (model(torch.randn(6, 8) + 1) ** 2).mean().backward()
        optimizer.step()


def backbone(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors outside of the head, by their names in the model without wrappers."""
    state = {}
    for name, value in model.state_dict().items():
        name = name.replace("module.", "").replace("_orig_mod.", "")
        if not name.startswith(("fc.", "n_averaged")):
            full: Any = getattr(value, "full_tensor", lambda value=value: value)
            state[name] = full().clone()
    return state


def update_bn(model: nn.Module) -> None:
    swa_utils.update_bn([torch.randn(6, 8) + 2 for _ in range(3)], model)


def average(model: nn.Module, **options: Any) -> nn.Module:
    averaged = swa_utils.AveragedModel(model, **options)
    for _ in range(3):
        train(model)
        averaged.update_parameters(model)
    update_bn(averaged)
    return averaged


def convert_and_update_bn(model: nn.Module) -> Any:
    converted = convert(model)
    converted.train()
    update_bn(converted)
    return converted


def reset_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.reset_running_stats()


CALLS: dict[str, Call] = {
    "update_bn": update_bn,
    "convert_sync_batchnorm": convert,
    "convert_sync_batchnorm, then update_bn": convert_and_update_bn,
    "AveragedModel": average,
    "AveragedModel with EMA": lambda model: average(model, multi_avg_fn=ema(0.9)),
    "apply": lambda model: model.apply(lambda module: module.train()),
    "load_state_dict": lambda model: model.load_state_dict(copy.deepcopy(model.state_dict())) and None,
    "load_state_dict with assign": lambda model: model.load_state_dict(model.state_dict(), assign=True) and None,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "compile": lambda model: torch.compile(model, backend="eager"),
    "double and float": lambda model: model.double().float(),
    "reset_running_stats": reset_statistics,
    "train of each module": lambda model: [module.train() for module in model.modules()] and None,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_standard_call_leaves_the_backbone_frozen(name: str) -> None:
    model = frozen_model()
    before = backbone(model)
    returned = CALLS[name](model)
    model = model if returned is None else returned
    train(model)
    after = backbone(model)
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    awake = {
        path.replace("module", "").replace("_orig_mod", "").strip(".")
        for path, m in model.named_modules()
        if m.training
    }
    assert awake == {"", "fc"}


@pytest.fixture
def one_process(tmp_path: Path) -> Any:
    """Start a group with one process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def shard(model: Any) -> Any:
    fsdp: Any = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this version of torch has no fully_shard")
    fsdp.fully_shard(model.block)
    return fsdp.fully_shard(model)


@pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("wrap", [nn.parallel.DistributedDataParallel, shard], ids=["ddp", "fully_shard"])
@pytest.mark.usefixtures("one_process")
def test_a_frozen_model_stays_frozen_in_distributed_training(wrap: Call) -> None:
    model = frozen_model()
    before = backbone(model)
    model = wrap(model)
    train(model)
    after = backbone(model)
    assert [key for key in before if not torch.equal(before[key], after[key])] == []


@pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("as_swap", [True, False], ids=["swap", "model"])
@pytest.mark.usefixtures("one_process")
def test_a_model_in_distributed_data_parallel_is_frozen_before_it_is_wrapped(as_swap: bool) -> None:
    swap = swap_head(Net(), 5, torch.randn(6, 8))
    model = nn.parallel.DistributedDataParallel(swap.model)
    swap.model = model
    with pytest.raises(HeadSwapError, match=r"freeze ddp\.module, then wrap it again") as caught:
        freeze_backbone(swap if as_swap else model)
    assert caught.value.reason == "unsupported_model"
    assert all(value.requires_grad for value in model.parameters())
    freeze_backbone(model.module)


def test_statistics_of_the_head_can_still_be_reset() -> None:
    model: Any = nn.Sequential(nn.Linear(8, WIDTH), nn.Linear(WIDTH, 10), nn.BatchNorm1d(10))
    frozen = freeze_backbone(swap_head(model, 5, torch.randn(6, 8)))
    model.train()(torch.randn(6, 8))
    model[2].reset_running_stats()
    assert model[2].num_batches_tracked == 0
    frozen.unfreeze()


def test_unfreeze_makes_update_bn_work_again() -> None:
    torch.manual_seed(0)
    model = Net()
    frozen = freeze_backbone(swap_head(model, 5, torch.randn(6, 8)))
    frozen.unfreeze()
    update_bn(model)
    assert model.bn.num_batches_tracked == 3
    frozen.refreeze()
    update_bn(model)
    assert model.bn.num_batches_tracked == 3


class _Adapter(nn.Module):
    """Wrap a layer, with dropout and trainable weights, as LoRA does."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.dropout = nn.Dropout(0.5)
        self.down = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        adapted: torch.Tensor = self.down(self.dropout(x))
        return self.layer(x) + adapted  # type: ignore[no-any-return]


def test_adapters_that_wrap_frozen_layers_later_are_named_once() -> None:
    backbone = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    model = nn.Sequential(backbone, nn.Linear(8, 10))
    freeze_backbone(swap_head(model, 3, torch.randn(2, 8)))
    adapter = _Adapter(backbone[0], 8)
    backbone[0] = adapter
    with pytest.warns(HeadSwapWarning, match=r"added to the frozen backbone \(Linear\)"):
        model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train()
    assert not adapter.dropout.training


@pytest.mark.parametrize(
    "added", [nn.Dropout(), nn.Linear(8, 8).requires_grad_(False), nn.BatchNorm1d(8, affine=False)]
)
def test_modules_without_trainable_parameters_join_the_frozen_backbone_quietly(added: nn.Module) -> None:
    backbone = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    model = nn.Sequential(backbone, nn.Linear(8, 10))
    freeze_backbone(swap_head(model, 3, torch.randn(2, 8)))
    backbone.append(added)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(model).train()
        model.train()
    assert not added.training
