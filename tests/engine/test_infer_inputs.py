"""Inputs are inferred from shapes alone. Only the chosen ones are allocated, and the search is limited."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_headswap.engine import HeadSwapError, freeze_backbone, swap_head
from pytest_headswap.engine.abstract import infer_inputs as infer_inputs_module
from pytest_headswap.engine.abstract import run as abstract
from pytest_headswap.engine.abstract.infer_inputs import infer_inputs
from pytest_headswap.engine.abstract.trial_limits import TrialLimitError, TrialLimits

MEBI = 2**20


class AllocationMode(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Count the bytes of the tensors that operations allocate."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.total = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and type(result) is Tensor and not result.is_meta and not func.is_view:
            self.total += result.nbytes
            self.largest = max(self.largest, result.nbytes)
        return result


def deep(kind: Any, pool: Any, width: int = 512) -> nn.Module:
    """Return a model with many wide layers, each of which suggests input shapes."""
    layers = [kind(3, width, 3, padding=1), *(kind(width, width, 3, padding=1) for _ in range(4))]
    return nn.Sequential(*layers, pool(1), nn.Flatten(), nn.Linear(width, 10))


@pytest.mark.parametrize(
    "model",
    [lambda: deep(nn.Conv2d, nn.AdaptiveAvgPool2d), lambda: deep(nn.Conv3d, nn.AdaptiveAvgPool3d, 64)],
    ids=["images", "clips"],
)
def test_inferred_inputs_take_no_memory(model: Any) -> None:
    built = model()
    with AllocationMode() as allocated:
        inputs = infer_inputs(built)
    assert allocated.total == 0
    assert all(tensor.is_meta for tensor in inputs.tensors())


def test_inferring_inputs_allocates_little_memory() -> None:
    model = deep(nn.Conv2d, nn.AdaptiveAvgPool2d)
    totals = []
    for inputs in (torch.zeros(2, 3, 224, 224), None):
        with AllocationMode() as allocated:
            swap_head(model, 5, inputs).restore()
        totals.append(allocated.total)
    assert totals[1] - totals[0] < 2 * MEBI


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which each abstract run from now on adds the kind of its tensors."""
    runs: list[str] = []
    real_run = abstract._run

    def run(model: Any, inputs: Any, training: bool, tensor_kind: str, *rest: Any, **options: Any) -> Any:
        runs.append(tensor_kind)
        return real_run(model, inputs, training, tensor_kind, *rest, **options)

    monkeypatch.setattr(abstract, "_run", run)
    return runs


def test_inferring_inputs_runs_the_model_once_in_each_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for inputs in (torch.zeros(2, 3, 224, 224), None):
        runs = count_runs(monkeypatch)
        swap_head(deep(nn.Conv2d, nn.AdaptiveAvgPool2d, 8), 5, inputs)
        counts.append(len(runs))
    assert counts[1] == counts[0] + 2


class Auxiliary(nn.Module):
    """A model whose auxiliary head runs only in train mode, and only on large images."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.conv, self.fc, self.aux = nn.Conv2d(3, 8, 3), nn.Linear(8, 10), nn.Linear(8, 10)
        self.least = least

    def forward(self, x: Tensor) -> Any:
        features = self.conv(x).mean((2, 3))
        if self.training and x.shape[-1] < self.least:
            raise ValueError("too small for the auxiliary head")
        return (self.fc(features), self.aux(features)) if self.training else self.fc(features)


def test_inputs_that_work_in_both_modes_are_preferred() -> None:
    swap = swap_head(Auxiliary(250), 5)
    assert [head.path for head in swap.heads] == ["fc", "aux"]
    assert swap.notes == ()


def test_larger_images_are_tried_before_other_channel_counts() -> None:
    class Deep(Auxiliary):
        def __init__(self) -> None:
            super().__init__(least=290)
            self.unused = nn.ModuleList(nn.Conv2d(4 + width, 8, 3) for width in range(60))

    swap = swap_head(Deep(), 5)
    assert [head.path for head in swap.heads] == ["fc", "aux"]


def test_inputs_that_work_only_in_eval_mode_are_the_fallback() -> None:
    swap = swap_head(Auxiliary(10_000), 5)
    assert [head.path for head in swap.heads] == ["fc"]
    assert "could not be run in train mode" in swap.notes[0]


class NeedsValues(nn.Module):
    """A model that reads values, and accepts only one size of images."""

    def __init__(self, size: int, width: int = 512) -> None:
        super().__init__()
        self.size = size
        self.first, self.second = nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 3)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum().item() != 0 or x.shape[2] != self.size:
            raise ValueError(f"an image of {self.size} pixels")
        return self.fc(self.second(self.first(x)).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_model_that_reads_values_is_tried_on_zeros() -> None:
    swap = swap_head(NeedsValues(64, 8), 5)
    assert [head.path for head in swap.heads] == ["fc"]
    assert infer_inputs(NeedsValues(64, 8)).tensors()[0].is_meta


def test_a_trial_ends_before_it_exceeds_its_memory() -> None:
    with AllocationMode() as allocated, pytest.raises(HeadSwapError, match="MiB allowed for trials") as caught:
        infer_inputs(NeedsValues(512))  # 3.2 GB, and 19 GB for the convolution's copies of its input
    assert caught.value.reason == "no_inputs"
    assert allocated.largest < 1200 * MEBI


def test_what_an_allocator_refuses_is_no_inputs() -> None:
    class Greedy(NeedsValues):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.empty(2**60)[:1])

    with pytest.raises(HeadSwapError) as caught:
        swap_head(Greedy(224, 8), 5)
    assert caught.value.reason == "no_inputs"


def test_the_tensors_of_a_failed_trial_are_released() -> None:
    made: list[Any] = []

    class Failing(NeedsValues):
        def forward(self, x: Tensor) -> Tensor:
            large = x + x.sum().item()
            made.append(weakref.ref(large))
            raise ValueError("always")

    search = infer_inputs_module._Search(Failing(224, 8))
    with pytest.raises(HeadSwapError):
        search.run()
    gc.collect()
    assert not any(reference() is not None for reference in made)


def test_the_search_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = count_runs(monkeypatch)
    monkeypatch.setattr(infer_inputs_module, "_MAX_SECONDS", -1.0)
    with pytest.raises(HeadSwapError, match="The time for trials was used up") as caught:
        infer_inputs(NeedsValues(224))
    assert caught.value.reason == "no_inputs"
    assert not runs


def test_a_trial_stops_at_its_time_limit() -> None:
    with pytest.raises(TrialLimitError, match="time for trials"), TrialLimits(deadline=-1.0):
        torch.ones(1).add_(1)


def test_the_limit_counts_results_and_copies_of_convolutions_but_no_views() -> None:
    image, weight = torch.zeros(1, 4, 34, 34), torch.zeros(4, 4, 3, 3)
    with TrialLimits(float("inf"), 32 * 32 * 4 * 4 * (1 + 9)):
        image.view(-1).unsqueeze(0)
        nn.functional.conv2d(image, weight)
    with pytest.raises(TrialLimitError, match="convolution exceeds"), TrialLimits(float("inf"), 32 * 32 * 4 * 4 * 9):
        nn.functional.conv2d(image, weight)


def test_a_failure_of_the_meta_device_alone_leads_to_values(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoMeta(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            if x.is_meta:
                raise RuntimeError("an error that names neither shapes nor devices")
            return self.fc(self.conv(x).mean((2, 3)))  # type: ignore[no-any-return]

    runs = count_runs(monkeypatch)
    assert infer_inputs(NoMeta()).tensors()[0].shape == (2, 3, 224, 224)
    assert len(runs) < 6


def test_inputs_have_the_dtype_of_the_model() -> None:
    model = deep(nn.Conv2d, nn.AdaptiveAvgPool2d, 8).to(torch.bfloat16)
    assert infer_inputs(model).tensors()[0].dtype == torch.bfloat16
    assert infer_inputs(model.to("meta")).tensors()[0].dtype == torch.bfloat16


def test_a_swap_keeps_no_batch_alive_unless_its_values_were_needed() -> None:
    image = torch.zeros(2, 3, 64, 64)
    swap = swap_head(deep(nn.Conv2d, nn.AdaptiveAvgPool2d, 8), 5, image)
    assert swap._plan.inputs.tensors()[0].is_meta
    swap = swap_head(NeedsValues(64, 8), 5, image)
    assert swap._plan.inputs.tensors()[0] is image
    tokens = torch.zeros(2, 4, dtype=torch.long)
    swap = swap_head(nn.Sequential(nn.Embedding(3, 8), nn.Linear(8, 10)), 5, tokens)
    assert swap._plan.inputs.tensors()[0] is tokens


def test_a_freeze_uses_the_inputs_of_the_swap_in_the_dtype_of_the_model() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)

        def forward(self, first: Tensor, edge_weight: Tensor) -> Tensor:
            return self.fc(self.body(first * edge_weight).relu())  # type: ignore[no-any-return]

    swap = swap_head(Odd(), 5, (torch.ones(2, 8), torch.ones(2, 1)))
    swap.model.double()
    assert freeze_backbone(swap).notes == ()


def test_an_error_that_no_shape_would_fix_is_raised_at_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(10))
    with pytest.raises(HeadSwapError, match="uninitialised lazy parameters") as caught:
        swap_head(model, 5)
    assert caught.value.reason == "unsupported_model"


def test_an_invalid_declared_size_is_ignored() -> None:
    model: Any = deep(nn.Conv2d, nn.AdaptiveAvgPool2d, 8)
    model.default_cfg = {"input_size": (3, -1, -1)}
    assert infer_inputs(model).tensors()[0].shape == (2, 3, 224, 224)
