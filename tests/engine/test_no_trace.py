"""`find_heads` changes no tensor, mode, hook, attribute, RNG state or other global state."""

from __future__ import annotations

import collections
import gc
import os
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, abstract_run, find_heads, swap_head
from pytest_headswap.engine.dataflow.graph import Node, Value
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import seed_all
from pytest_headswap.zoo import load_zoo


class Tracks(nn.Module):
    """A model whose forward writes to everything it can reach."""

    counter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)
        self.register_buffer("counter", torch.zeros(()))
        self.table = torch.arange(4.0)  # a tensor that is neither parameter nor buffer
        self.calls = 0
        self.history: list[Any] = []
        self.cache: dict[str, Any] = {"nested": {"list": [1]}}
        self.recent: collections.deque[int] = collections.deque(maxlen=2)
        self.same = self.history
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.history.append(x)
        self.cache["nested"]["list"].append(2)
        self.cache["input"] = x
        self.recent.append(self.calls)
        self.counter += 1
        self.new_attribute = x
        self.fc.register_buffer("mean", x.mean())  # the first buffer of this module
        self.bn.add_module("inner", nn.Identity())  # the first child of this module
        self.bn.register_forward_hook(lambda *_: None)
        if random.random() < 2 and np.random.rand() < 2:
            x = x + torch.rand(()) * self.table.sum()
        x = nn.functional.dropout(self.bn(self.conv(x)), training=self.training)
        self.last = x
        self.table.mul_(2)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def state_of(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        for key, value in module.__dict__.items():
            found[f"{path}:{key}"] = (id(value), repr(value))
        for kind in ("_parameters", "_buffers"):
            for key, tensor in getattr(module, kind).items():
                if tensor is not None:
                    found[f"{path}:{kind}:{key}"] = (
                        id(tensor), tensor.detach().clone().tolist(), tensor._version, tensor.requires_grad, tensor.grad
                    )  # fmt: skip
    return found


def surroundings() -> tuple[Any, ...]:
    return (
        random.getstate(),
        str(np.random.get_state()),
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_default_device(),
        torch.get_num_threads(),
    )


@pytest.mark.parametrize("training", [True, False])
def test_find_heads_changes_neither_the_model_nor_global_state(training: bool) -> None:
    model = Tracks().train(training)
    model.bn.eval()
    inputs = torch.randn(2, 3, 8, 8)
    copy = inputs.clone()
    before = state_of(model), surroundings()
    find_heads(model, inputs)
    assert (state_of(model), surroundings()) == before
    assert torch.equal(inputs, copy)
    assert model.same is model.history


@pytest.mark.parametrize("name", load_zoo("builtin").names)
def test_find_heads_changes_no_builtin_model(name: str) -> None:
    spec = load_zoo("builtin")[name]
    model = spec.build()
    assert spec.example_inputs is not None
    inputs = spec.example_inputs(model)
    before = state_of(model), surroundings()
    try:
        find_heads(model, inputs)
    except HeadSwapError:
        assert name == "encoder_without_head"
    assert (state_of(model), surroundings()) == before


def test_a_forward_that_raises_leaves_no_changes() -> None:
    class Breaks(Tracks):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            raise RuntimeError("broken")

    model, inputs = Breaks(), torch.randn(2, 3, 8, 8)
    before = state_of(model), surroundings()
    with pytest.raises(HeadSwapError, match=r"Breaks.forward raised RuntimeError in eval mode .* broken"):
        find_heads(model, inputs)
    assert (state_of(model), surroundings()) == before


def test_a_failed_swap_leaves_no_changes() -> None:
    class Stubborn(Tracks):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).reshape(-1, 5)

    model = Stubborn()
    before = state_of(model)
    with pytest.raises(HeadSwapError) as caught:
        swap_head(model, 3, torch.randn(2, 3, 8, 8))
    assert caught.value.reason == "verification_failed"
    assert state_of(model) == before


def test_a_swap_changes_only_the_head() -> None:
    model = Tracks()
    before = state_of(model)
    swap = swap_head(model, 3, torch.randn(2, 3, 8, 8))
    after = state_of(model)
    # `:_modules` changes only because its repr includes the head
    changed = {key for key in before if before[key] != after[key]}
    assert {key for key in changed if not key.startswith(("fc:", ":_modules"))} == set()
    swap.restore()
    assert state_of(model) == before


def test_a_batch_of_one_with_batch_norm_adds_a_note_and_the_search_continues() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    heads = find_heads(model, torch.randn(1, 8))
    assert [head.path for head in heads] == ["2"]
    assert "could not be run in train mode" in heads.notes[0]


def test_an_overridden_train_method_is_called() -> None:
    class FrozenNorm(nn.Sequential):
        def train(self, mode: bool = True) -> FrozenNorm:
            super().train(mode)
            self[1].eval()
            return self

    model = FrozenNorm(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    assert find_heads(model, torch.randn(1, 8)).notes == ()


def test_user_hooks_stay_and_take_part_in_the_abstract_run() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3))
    model[1].register_forward_hook(lambda module, args, output: output[:, :2])
    hooks = dict(model[1]._forward_hooks)
    assert abstract_run(model, Inputs((torch.randn(2, 8),))).outputs.shape == (2, 2)
    assert dict(model[1]._forward_hooks) == hooks


def test_an_abstract_run_has_an_autograd_graph_for_trainable_parameters() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3))
    model[0].requires_grad_(requires_grad=False)
    run = abstract_run(model, Inputs((torch.randn(2, 8),)))
    grads = torch.autograd.grad(run.outputs.sum(), [run.parameters["1.weight"], run.parameters["1.bias"]])
    assert [grad.shape for grad in grads] == [(3, 4), (3,)]
    assert not run.parameters["0.weight"].requires_grad
    assert model[1].weight.grad is None


def test_uninitialised_lazy_layers_raise_an_error_that_says_what_to_do() -> None:
    with pytest.raises(HeadSwapError, match="run it once on a real batch") as caught:
        find_heads(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 3)), torch.randn(2, 8))
    assert caught.value.reason == "unsupported_model"


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_fake_tensors_start_no_autograd_threads_for_missing_gpus() -> None:
    code = """
import os, torch
from torch import nn
from pytest_headswap.engine import HeadSwapError, find_heads
try:
    find_heads(nn.Linear(4, 3), torch.zeros(2, 5))  # wrong width: every kind of tensors is tried
except HeadSwapError as error:
    assert error.reason == "forward_failed"
else:
    raise AssertionError("find_heads must raise")
torch.ones(2, requires_grad=True).sum().backward()
assert torch.cuda.device_count() or len(os.listdir("/proc/self/task")) == 1, os.listdir("/proc/self/task")
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_find_heads_leaves_no_reference_cycles() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    find_heads(model, torch.randn(2, 4))
    gc.collect()
    gc.disable()
    try:
        find_heads(model, torch.randn(2, 4))
        left = [item for item in gc.get_objects() if type(item) in (Node, Value)]
    finally:
        gc.enable()
    assert left == []


def test_seed_all_seeds_like_torch_and_queues_no_cuda_calls() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    queued = len(torch.cuda._queued_calls)
    for _ in range(3):
        seed_all(3)
    assert torch.equal(torch.rand(4), expected)
    assert len(torch.cuda._queued_calls) == queued


class WritesToOwnTensors(nn.Module):
    """A model whose forward changes the values, shapes and flags of its own tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(8, 16)
        self.fc = nn.Linear(16, 10)
        self.register_buffer("seen", torch.zeros(4))
        self.kept = torch.zeros(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.backbone.weight.mul_(2)
            self.get_buffer("seen").add_(1)
            self.kept.resize_(7)
            self.backbone.weight.requires_grad_(False)
            self.fc.bias.data = torch.zeros(10, dtype=torch.float64, device=x.device).float()
        return self.fc(self.backbone(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_writes_in_forward_go_to_stand_ins(device: str) -> None:
    model = WritesToOwnTensors()
    if device == "meta":
        model.to(device)
        model.kept = model.kept.to(device)
    tensors = {**model.state_dict(keep_vars=True), "kept": model.kept}
    before = {
        name: (id(value), value.shape, value.stride(), value.dtype, value.requires_grad, value._version, value.grad)
        for name, value in tensors.items()
    }
    find_heads(model, torch.zeros(2, 8, device=device))
    tensors = {**model.state_dict(keep_vars=True), "kept": model.kept}
    assert before == {
        name: (id(value), value.shape, value.stride(), value.dtype, value.requires_grad, value._version, value.grad)
        for name, value in tensors.items()
    }


def test_a_probe_leaves_fused_kernels_enabled() -> None:
    before = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    assert any(before)
    find_heads(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10)), torch.zeros(2, 8))
    assert (torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()) == before
