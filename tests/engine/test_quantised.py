"""Quantised models: a float head is swapped, a quantised one is refused with the true reason."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization as torch_quantization

from pytest_headswap.engine import HeadSwapError, find_heads, freeze_backbone, swap_head

quantization: Any = torch_quantization
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates this kind of quantisation
        yield


class Static(nn.Module):
    """A model that is quantised completely, or except for its head."""

    def __init__(self, *, float_head: bool) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 10)
        self.float_head = float_head

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv(self.quant(x)))).flatten(1)
        if self.float_head:
            return self.fc(self.dequant(x))  # type: ignore[no-any-return]
        return self.dequant(self.fc(x))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0][:, -1])  # type: ignore[no-any-return]


IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def static(*, float_head: bool = False) -> nn.Module:
    model: Any = Static(float_head=float_head).eval()
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    if float_head:
        model.fc.qconfig = None
    prepared = quantization.prepare(model)
    prepared(IMAGES)
    return quantization.convert(prepared)  # type: ignore[no-any-return]


def dynamic(model: nn.Module, *layers: type[nn.Module], dtype: torch.dtype = torch.qint8) -> Any:
    return quantization.quantize_dynamic(model, set(layers), dtype=dtype)


def perceptron() -> Any:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (lambda: dynamic(perceptron(), nn.Linear), X),
        (lambda: dynamic(perceptron(), nn.Linear, dtype=torch.float16), X),
        (lambda: dynamic(Recurrent(), nn.Linear, nn.LSTM), SEQUENCES),
        (static, IMAGES),
    ],
    ids=["dynamic", "dynamic half", "recurrent", "static"],
)
def test_a_quantised_head_is_refused_with_the_next_step(model: Any, inputs: Tensor) -> None:
    quantised = model()
    before = {key: value for key, value in quantised.state_dict().items() if isinstance(value, torch.Tensor)}
    for call in (lambda: swap_head(quantised, 5, inputs), lambda: find_heads(quantised, inputs)):
        with pytest.raises(HeadSwapError, match=r"swap the head first, then quantise the model") as caught:
            call()
        assert caught.value.reason == "unsupported_layer"
    after = quantised.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize(
    ("model", "inputs", "head"),
    [
        (lambda: dynamic(Recurrent(), nn.LSTM), SEQUENCES, "fc"),
        (lambda: nn.Sequential(dynamic(nn.Sequential(nn.Linear(8, 16)), nn.Linear), nn.Linear(16, 10)), X, "1"),
        (lambda: static(float_head=True), IMAGES, "fc"),
    ],
    ids=["recurrent", "dynamic", "static"],
)
def test_a_float_head_of_a_quantised_backbone_is_swapped_and_frozen(model: Any, inputs: Tensor, head: str) -> None:
    quantised = model()
    swap = swap_head(quantised, 5, inputs)
    assert [item.path for item in swap.heads] == [head]
    freeze_backbone(swap)
    assert quantised(inputs).shape == (len(inputs), 5)


def test_weights_kept_as_integers_in_a_buffer_are_refused() -> None:
    class Integers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 16)
            self.register_buffer("weight", torch.randint(-127, 127, (10, 16), dtype=torch.int8))
            self.register_buffer("scale", torch.rand(10, 1))

        def forward(self, x: Tensor) -> Tensor:
            weight: Any = self.weight
            return self.body(x) @ (weight.float() * self.scale).T  # type: ignore[no-any-return]

    with pytest.raises(HeadSwapError, match="a buffer: its values are fixed") as caught:
        swap_head(Integers(), 5, X)
    assert caught.value.reason == "unsupported_layer"


def test_a_head_under_quantization_aware_training_gets_fresh_observers() -> None:
    model = perceptron().train()
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    model = quantization.prepare_qat(model)
    for _ in range(3):
        model(X * 5)
    swap_head(model, 5, X)
    observer = model[2].weight_fake_quant.activation_post_process
    assert observer.min_val.numel() in (0, 5)
    assert observer.min_val.numel() == 0 or bool((observer.min_val <= observer.max_val).all())
    model(X)
    weight = model[2].weight.detach()
    torch.testing.assert_close(observer.max_val, weight.amax(1))
    assert model.eval()(X).isfinite().all()
