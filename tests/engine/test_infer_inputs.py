"""Inputs are inferred from shapes alone. Only the chosen ones are allocated, and the search is limited."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_headswap.engine import HeadSwapError, swap_head
from pytest_headswap.engine.abstract import infer_inputs as infer_inputs_module
from pytest_headswap.engine.abstract import run as abstract
from pytest_headswap.engine.abstract import stand_ins
from pytest_headswap.engine.abstract.infer_inputs import infer_inputs

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


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        COUNT.append(tuple(x.shape))
        return self.fc(self.conv(x).mean((2, 3)))  # type: ignore[no-any-return]


COUNT: list[tuple[int, ...]] = []


def test_inferring_inputs_runs_the_model_once_in_each_mode() -> None:
    calls = []
    for inputs in (torch.zeros(2, 3, 224, 224), None):
        COUNT.clear()
        swap_head(Counting(), 5, inputs)
        calls.append(len(COUNT))
    assert calls[1] == calls[0] + 2


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
    """A model that reads values, and accepts only shapes late in the list of candidates."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 512, 1), nn.Conv2d(512, 512, 1)
        self.fc = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != 16 or x.sum().item() != 0:
            raise ValueError("an image of 16 pixels")
        return self.fc(self.second(self.first(x)).mean((2, 3)))  # type: ignore[no-any-return]


def test_large_candidates_are_never_tried_with_real_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    real_run = abstract._run

    def run(model: Any, inputs: Any, training: bool, tensor_kind: str, *rest: Any, **options: Any) -> Any:
        if tensor_kind == stand_ins.REAL:
            tried.append(sum(tensor.nbytes for tensor in inputs.tensors()))
        return real_run(model, inputs, training, tensor_kind, *rest, **options)

    monkeypatch.setattr(abstract, "_run", run)
    with pytest.raises(HeadSwapError) as caught:
        infer_inputs(NeedsValues())
    assert caught.value.reason == "no_inputs"
    assert tried
    assert max(tried) <= 32 * MEBI


def test_the_search_with_real_arithmetic_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer_inputs_module, "_MAX_REAL_SECONDS", -1.0)
    with pytest.raises(HeadSwapError) as caught:
        infer_inputs(NeedsValues())
    assert caught.value.reason == "no_inputs"


def test_inputs_have_the_dtype_and_device_of_the_model() -> None:
    model = deep(nn.Conv2d, nn.AdaptiveAvgPool2d, 8).to(torch.bfloat16)
    (image,) = infer_inputs(model).tensors()
    assert (image.dtype, image.device.type) == (torch.bfloat16, "cpu")
    (image,) = infer_inputs(model.to("meta")).tensors()
    assert image.is_meta


def test_an_error_that_no_shape_would_fix_is_raised_at_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(10))
    with pytest.raises(HeadSwapError, match="uninitialised lazy parameters") as caught:
        swap_head(model, 5)
    assert caught.value.reason == "unsupported_model"


def test_an_invalid_declared_size_is_ignored() -> None:
    model: Any = deep(nn.Conv2d, nn.AdaptiveAvgPool2d, 8)
    model.default_cfg = {"input_size": (3, -1, -1)}
    assert infer_inputs(model).tensors()[0].shape == (2, 3, 224, 224)
