"""A swapped and frozen model trains in two processes, by DDP and by FSDP2."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from pytest_headswap.engine import freeze_backbone, swap_head
from tests.engine.test_freeze_standard_calls import Net

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")
WAYS = ("ddp", "fully_shard", "fully_shard of the root alone")


def whole(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor with the parts of all processes."""
    full: Any = getattr(tensor, "full_tensor", lambda: tensor)
    return full().detach().clone()  # type: ignore[no-any-return]


def wrapped(model: nn.Module, way: str) -> nn.Module:
    if way == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    fully_shard: Any = importlib.import_module("torch.distributed.fsdp").fully_shard
    if way == "fully_shard":
        fully_shard(model.get_submodule("block"))
        fully_shard(model.get_submodule("fc"))
    fully_shard(model)
    return model


def train_in_one_process(rank: int, way: str, folder: str) -> None:
    """Take two steps on data of this process, and save all tensors before and after."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    try:
        torch.manual_seed(0)
        model = Net()
        for _ in range(3):
            model.train()(torch.randn(6, 8))
        freeze_backbone(swap_head(model, 5, torch.randn(6, 8)))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        parallel = wrapped(model, way)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        torch.manual_seed(1 + rank)
        for _ in range(2):
            parallel.train()
            optimizer.zero_grad()
            (parallel(torch.randn(6, 8) + rank) ** 2).mean().backward()
            optimizer.step()
        after = {name: whole(tensor) for name, tensor in model.state_dict().items()}
        torch.save((before, after), f"{folder}/{rank}")
        distributed.barrier()  # gloo aborts a process whose peer leaves while it still receives
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("way", WAYS)
def test_the_backbone_stays_and_the_head_moves_alike_in_both_processes(way: str, tmp_path: Path) -> None:
    if way != "ddp" and not hasattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("this version of torch has no fully_shard")
    multiprocessing.spawn(train_in_one_process, (way, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call, attr-defined, unused-ignore]
    (before, after), (_, other) = (torch.load(tmp_path / str(rank)) for rank in range(2))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"fc.weight", "fc.bias"}
    assert [name for name in after if not torch.equal(after[name], other[name])] == []
