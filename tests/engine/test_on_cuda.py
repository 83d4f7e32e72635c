"""The engine on a real CUDA device."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.engine import NoHeadError, find_heads, freeze_backbone, swap_head
from pytest_headswap.engine.pytorch import accelerators
from pytest_headswap.engine.pytorch.inputs import Inputs, read_inputs
from pytest_headswap.engine.pytorch.outputs import flatten_outputs
from pytest_headswap.zoo import load_zoo

pytestmark = pytest.mark.cuda

CUDA = torch.device("cuda", 0)
DEVICES = [torch.device("cuda", index) for index in sorted({0, max(0, torch.cuda.device_count() - 1)})]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ZOO = load_zoo("builtin")


def _on_cuda(inputs: Inputs, device: torch.device, dtype: torch.dtype) -> Inputs:
    return inputs.map_tensors(lambda value: value.to(device, dtype if value.is_floating_point() else value.dtype))


def _build(name: str, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, Inputs]:
    torch.manual_seed(0)
    spec = ZOO[name]
    assert spec.example_inputs is not None
    model = spec.build().to(device, dtype)
    given = read_inputs(spec.example_inputs(model))
    assert given is not None
    return model, _on_cuda(given, device, dtype)


def _error_as_built(model: nn.Module, inputs: Inputs) -> RuntimeError | None:
    try:
        with torch.no_grad():
            _call(copy.deepcopy(model).eval(), inputs)
    except RuntimeError as error:
        return error
    return None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_most_models_run_on_a_gpu_as_built(dtype: torch.dtype) -> None:
    if not accelerators.supports(CUDA, dtype):
        pytest.skip(f"the device does not support {dtype}")
    failed = [name for name in ZOO.names if _error_as_built(*_build(name, CUDA, dtype)) is not None]
    assert len(failed) <= (0 if dtype is torch.float32 else len(ZOO) // 4), failed


def _call(model: nn.Module, inputs: Inputs) -> Any:
    return model(*inputs.args, **inputs.kwargs)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ZOO.names)
def test_a_model_on_a_gpu_is_swapped_frozen_trained_and_restored(
    name: str, dtype: torch.dtype, device: torch.device
) -> None:
    spec = ZOO[name]
    model, inputs = _build(name, device, dtype)
    was = {key: (id(value), value.detach().clone()) for key, value in model.state_dict(keep_vars=True).items()}
    random_numbers = torch.cuda.get_rng_state(device)
    if error := _error_as_built(model, inputs):
        pytest.skip(f"the model as built does not run in {dtype}: {error}")
    torch.cuda.set_rng_state(random_numbers, device)

    try:
        swap = swap_head(model, 7, example_inputs=inputs, head=spec.head)
    except NoHeadError as on_gpu:
        same, given = _build(name, torch.device("cpu"), torch.float32)
        with pytest.raises(NoHeadError, match=re.escape(f"[{on_gpu.reason}]")):
            swap_head(same, 7, example_inputs=given, head=spec.head)
        return
    assert torch.equal(torch.cuda.get_rng_state(device), random_numbers)
    assert all(value.device == device for value in swap.state_dict().values())
    assert all(value.dtype == dtype for value in swap.state_dict().values() if value.is_floating_point())
    frozen = freeze_backbone(swap, inputs)
    before = {key: value.detach().clone() for key, value in model.state_dict().items()}
    labels = {label for head in swap.heads for label in head.outputs}
    optimizer = torch.optim.SGD(swap.parameters(), lr=0.1)
    model.train()
    outputs = dict(flatten_outputs(_call(model, inputs)))
    loss = torch.stack([outputs[label].float().square().sum() for label in outputs.keys() & labels]).sum()
    loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
    optimizer.step()
    after = model.state_dict(keep_vars=True)
    of_heads = {id(after[name]) for name in swap.state_dict()}
    heads = {key for key, value in after.items() if id(value) in of_heads}
    assert [key for key in before if key not in heads and not torch.equal(before[key], after[key])] == []
    assert any(not torch.equal(before[key], after[key]) for key in heads)
    frozen.unfreeze()
    swap.restore()
    now = model.state_dict(keep_vars=True)
    assert now.keys() == was.keys()
    assert all(id(now[key]) == was[key][0] and torch.equal(now[key], was[key][1]) for key in was)


class WrittenForCuda(nn.Module):
    """Makes a tensor on the device by its name, as many models in public do."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(8, 16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.backbone(x.to("cuda")) + torch.arange(16, device="cuda") / 16
        return self.fc(features.cuda())  # type: ignore[no-any-return]


class AsksForValues(WrittenForCuda):
    """Decides by what it computes, so it runs on real numbers alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.backbone(x)
        if math.isnan(features.sum().item()):
            features = features * 0
        return self.fc(features)  # type: ignore[no-any-return]


class FasterOnCuda(WrittenForCuda):
    """Computes the same in another way on a GPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cuda:
            return self.fc(self.backbone(x.half().float()))  # type: ignore[no-any-return]
        return self.fc(self.backbone(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [WrittenForCuda, AsksForValues, FasterOnCuda])
def test_a_model_that_is_written_for_a_gpu_is_swapped_there(kind: type[nn.Module]) -> None:
    model: Any = kind().to(CUDA)
    x = torch.randn(2, 8, device=CUDA)
    swap = swap_head(model, 3, example_inputs=x)
    assert [head.path for head in swap.heads] == ["fc"]
    assert (model(x).shape, model(x).device) == ((2, 3), CUDA)
    freeze_backbone(swap, x)
    model(x).sum().backward()
    assert model.backbone.weight.grad is None
    assert model.fc.weight.grad is not None


def test_a_swap_takes_no_memory_of_the_device_but_for_the_new_head() -> None:
    backbone = nn.Sequential(nn.Linear(64, 4096), nn.ReLU(), nn.Linear(4096, 4096))  # 68 MB
    model = nn.Sequential(backbone, nn.ReLU(), nn.Linear(4096, 1000)).to(CUDA)
    x = torch.randn(2, 64, device=CUDA)
    model(x)  # cuBLAS takes memory of its own the first time
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    swap = swap_head(model, 10, example_inputs=x)
    head = sum(value.nbytes for value in swap.state_dict().values())
    assert torch.cuda.max_memory_allocated() - before < 4 * head + 2**20
    del swap
    model[2] = nn.Identity()


def test_heads_are_found_on_a_gpu_without_a_run_there() -> None:
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10)).to(CUDA), torch.randn(2, 8, device=CUDA)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        assert [head.path for head in find_heads(model, example_inputs=x)] == ["2"]
    kernels = [event.name for event in profile.events() if "gemm" in event.name.lower()]
    assert kernels == []


def test_data_parallel_on_a_gpu_is_swapped() -> None:
    model = nn.DataParallel(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10)).to(CUDA), device_ids=[0])
    x = torch.randn(4, 8, device=CUDA)
    swap_head(model, 3, example_inputs=x)
    assert model(x).shape == (4, 3)


def test_a_swapped_and_frozen_model_is_trained_in_mixed_precision() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    model.to(CUDA)
    x = torch.randn(4, 3, 8, 8, device=CUDA)
    swap = swap_head(model, 5, example_inputs=x)
    freeze_backbone(swap, x)
    optimizer, scaler = torch.optim.SGD(swap.parameters(), lr=0.1), torch.amp.GradScaler("cuda")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = nn.functional.cross_entropy(model.train()(x), torch.zeros(4, dtype=torch.long, device=CUDA))
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call, unused-ignore]
        scaler.step(optimizer)
        scaler.update()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"4.weight", "4.bias"}
