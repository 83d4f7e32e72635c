"""Cached results equal those of torch for every operation, dtype and memory layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.engine.abstract import meta_cache
from pytest_headswap.engine.abstract.device_mode import DeviceMixingMode
from pytest_headswap.engine.abstract.meta_cache import MetaInitContext
from pytest_headswap.zoo import load_zoo

LAYOUTS: dict[str, Callable[[torch.dtype], torch.Tensor]] = {
    "contiguous": lambda dtype: torch.empty(2, 3, 4, 5, device="meta", dtype=dtype),
    "channels last": lambda dtype: torch.empty(2, 3, 4, 5, device="meta", dtype=dtype).to(
        memory_format=torch.channels_last
    ),
    "permuted": lambda dtype: torch.empty(2, 4, 5, 3, device="meta", dtype=dtype).permute(0, 3, 1, 2),
    "sliced": lambda dtype: torch.empty(4, 3, 4, 5, device="meta", dtype=dtype)[::2],
    "expanded": lambda dtype: torch.empty(2, 1, 4, 5, device="meta", dtype=dtype).expand(2, 3, 4, 5),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]


def outcome(function: Any, *args: Any) -> Any:
    try:
        result = function(*args)
    except Exception as error:  # noqa: BLE001 - the same type of error must be raised
        return type(error)
    tensors = result if isinstance(result, tuple) else (result,)
    return [(t.shape, t.dtype, t.stride(), t.device, t.requires_grad) for t in tensors]


def assert_same(function: Any, *args: Any) -> None:
    plain = outcome(function, *args)
    for _ in ("computed", "cached"):
        with DeviceMixingMode():
            assert outcome(function, *args) == plain


ONE_TENSOR = (
    "relu gelu silu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu mish softplus exp neg rsqrt sqrt"
)
IN_PLACE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    **{name: getattr(torch.ops.aten, name) for name in ("exp_", "erfinv_", "zero_", "normal_")},
    **{f"{name}_": getattr(torch.ops.aten, f"{name}_") for name in meta_cache._UNARY_OPS if name != "gelu"},
    "clamp_": lambda x: x.clamp_(0.0, 1.0),
    "fill_": lambda x: x.fill_(2.0),
    "add_": lambda x: x.add_(torch.empty(5, device="meta")),
}
SHAPES_IN_PLACE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "t_": lambda x: x.t_(),
    "squeeze_": lambda x: x.squeeze_(),
    "unsqueeze_": lambda x: x.unsqueeze_(0),
    "resize_": lambda x: x.resize_(7, 9),
    "transpose_": lambda x: x.transpose_(0, 1),
}


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    cache: dict[Any, Any] = {}
    monkeypatch.setattr(meta_cache, "_cache", cache)
    return cache


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ONE_TENSOR.split())
def test_unary_operations(name: str, dtype: torch.dtype, layout: str) -> None:
    assert_same(getattr(torch.ops.aten, name).default, LAYOUTS[layout](dtype))


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_operations_return_their_argument(name: str) -> None:
    x = LAYOUTS["contiguous"](torch.float32)
    for _ in ("computed", "cached"):
        with DeviceMixingMode():
            assert IN_PLACE[name](x) is x


@pytest.mark.parametrize("name", SHAPES_IN_PLACE)
def test_in_place_changes_of_shape_are_not_cached(name: str) -> None:
    shapes = set()
    for _ in range(2):
        x = torch.empty(1, 3, device="meta")
        with DeviceMixingMode():
            SHAPES_IN_PLACE[name](x)
        shapes.add((x.shape, x.stride()))
    ((shape, _),) = shapes
    assert shape != (1, 3)


def test_an_operation_is_computed_once(empty_cache: dict[Any, Any]) -> None:
    x = LAYOUTS["contiguous"](torch.float32)
    with DeviceMixingMode():
        x.mean(1)
        assert len(empty_cache) == 1
        (key,) = empty_cache
        empty_cache[key] = meta_cache._TensorSpec(torch.Size((9,)), (1,), torch.float64)
        assert x.mean(1).shape == (9,), "the result must come from the cache"
        assert x.mean(2).shape == (2, 3, 5)


def test_equal_numbers_of_different_types_have_separate_entries() -> None:
    x = torch.empty(3, device="meta", dtype=torch.int64)
    for number, dtype in ((1, torch.int64), (1.0, torch.float32), (True, torch.int64)):
        with DeviceMixingMode():
            assert (x * number).dtype == dtype
    torch.set_default_dtype(torch.float64)
    try:
        with DeviceMixingMode():
            assert (x * 1.0).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_views_and_tensors_with_values_are_not_cached(empty_cache: dict[Any, Any]) -> None:
    x = LAYOUTS["contiguous"](torch.float32)
    with DeviceMixingMode():
        assert (torch.ones(3) + 1).tolist() == [2.0, 2.0, 2.0]
        assert x.view(-1).untyped_storage()._cdata == x.untyped_storage()._cdata
        torch.empty(2, device="meta", dtype=torch.complex64) + 1
    assert not empty_cache


def test_initialisers_are_skipped_only_on_meta() -> None:
    with MetaInitContext():
        layer = nn.Linear(3, 5)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.constant_(layer.bias, 3.0)
        real = torch.empty(4, device="cpu")
        nn.init.constant_(real, 3.0)
        nn.init.ones_(tensor=real[1:])
    assert layer.weight.is_meta
    assert layer.bias.is_meta
    assert real.tolist() == [3.0, 1.0, 1.0, 1.0]


def test_a_model_built_on_meta_can_request_another_device() -> None:
    with MetaInitContext():
        with torch.device("cpu"):
            inside = nn.Linear(3, 5)
        named = torch.ones(3, device="cpu")
        after = torch.ones(3)
    assert (inside.weight.device.type, named.device.type, after.device.type) == ("cpu", "cpu", "meta")
    assert torch.ones(3).device.type == "cpu"


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch, empty_cache: dict[Any, Any]) -> None:
    monkeypatch.setattr(meta_cache, "_MAX_ENTRIES", 5)
    with DeviceMixingMode():
        for size in range(20):
            torch.empty(size, device="meta").relu()
    assert len(empty_cache) <= 5


@pytest.mark.parametrize("name", [name for name in meta_cache._UNARY_OPS if name != "gelu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_place_operations_raise_where_torch_does(name: str, dtype: torch.dtype, layout: str) -> None:
    assert_same(lambda: getattr(torch.ops.aten, f"{name}_").default(LAYOUTS[layout](dtype)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "other",
    [
        *("same", "channels last", "float16", "row", "column", "more", "too wide", "number", "whole", "complex number"),
        *("scalar tensor", "scalar of another type", "truth"),
    ],
)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
def test_arithmetic(name: str, other: str, layout: str) -> None:
    function: Any = getattr(torch, name)
    x = LAYOUTS[layout](torch.float32)
    others: dict[str, Callable[[], Any]] = {
        "same": lambda: LAYOUTS[layout](torch.float32),
        "channels last": lambda: LAYOUTS["channels last"](torch.float32),
        "float16": lambda: LAYOUTS[layout](torch.float16),
        "row": lambda: torch.empty(5, device="meta"),
        "column": lambda: torch.empty(3, 1, 1, device="meta"),
        "more": lambda: torch.empty(6, 1, 3, 4, 5, device="meta"),
        "too wide": lambda: torch.empty(6, device="meta"),
        "whole": lambda: 2,
        "number": lambda: 2.0,
        "complex number": lambda: 2j,
        "truth": lambda: True,
        "scalar tensor": lambda: torch.tensor(2.0),
        "scalar of another type": lambda: torch.empty((), dtype=torch.float64, device="meta"),
    }
    y = others[other]()
    assert_same(function, x, y)
    assert_same(function, y, x)
    assert_same(lambda a: torch.add(a, y, alpha=2), x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_norms_and_softmax(layout: str, dtype: torch.dtype) -> None:
    x = LAYOUTS[layout](dtype)
    weight, both, narrow = (torch.empty(shape, device="meta", dtype=dtype) for shape in ((5,), (4, 5), (3,)))
    aten = torch.ops.aten
    assert_same(lambda t: aten.native_layer_norm.default(t, [5], weight, weight, 1e-5), x)
    assert_same(lambda t: aten.native_layer_norm.default(t, [4, 5], both, None, 1e-5), x)
    assert_same(lambda t: aten.native_layer_norm.default(t, [4], None, None, 1e-5), x)
    assert_same(lambda t: aten.native_group_norm.default(t, narrow, narrow, 2, 3, 20, 1, 1e-5), x)
    assert_same(lambda t: nn.functional.scaled_dot_product_attention(t, t, t), x)
    assert_same(lambda t: nn.functional.scaled_dot_product_attention(t, t, t, is_causal=True), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    "shapes", [((5,), (2, 3), (3, 5)), ((2, 5), (2, 3), (3, 5)), ((1,), (2, 3), (3, 5)), ((5,), (2, 3), (4, 5))]
)
def test_products_with_bias(shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype) -> None:
    operands = [torch.empty(shape, device="meta", dtype=dtype) for shape in shapes]
    assert_same(torch.addmm, *operands)
    assert_same(lambda a, b, c: torch.addmm(a, b, c.t().contiguous().t()), *operands)
    assert_same(torch.addmm, operands[0].float(), *operands[1:])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"stride": 2, "padding": 1},
        {"stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)},
        {"groups": 3},
        {"kernel_size": 1},
        {"kernel_size": 7},
        {"kernel_size": (4, 5), "padding": "valid"},
        {"padding": "same"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_convolutions(options: dict[str, Any], layout: str, dtype: torch.dtype) -> None:
    layer = nn.Conv2d(3, 6, **{"kernel_size": 3, **options}, device="meta")
    assert_same(layer, LAYOUTS[layout](dtype))
    assert_same(layer.to(memory_format=torch.channels_last), LAYOUTS[layout](dtype))


@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 4, 9), (3, 9), (2, 3, 1), (0, 3, 9), (2, 3, 9, 9)], ids=str)
def test_one_dimensional_convolutions(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device="meta")
    assert_same(nn.Conv1d(3, 6, 3, padding=1, device="meta"), x)
    assert_same(nn.Conv1d(3, 6, 3, stride=2, dilation=2, device="meta"), x)
    assert_same(nn.ConvTranspose1d(3, 6, 3, device="meta"), x)
    assert_same(lambda t: nn.functional.conv1d(t, torch.empty(6, 3, 3, device="meta"), stride=3), x)
    assert_same(lambda t: nn.functional.conv1d(t, torch.empty(6, 3, 3, device="meta", dtype=torch.float64)), x)


def test_convolutions_of_single_pixels_and_clips() -> None:
    pixel = torch.empty(2, 3, 1, 1, device="meta")
    assert_same(nn.Conv2d(3, 6, 1, device="meta"), pixel)
    assert_same(nn.Conv2d(3, 6, 1, device="meta").to(memory_format=torch.channels_last), pixel)
    assert_same(nn.Conv3d(3, 6, (1, 3, 3), padding=(0, 1, 1), device="meta"), torch.empty(2, 3, 4, 8, 8, device="meta"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_batch_norm(layout: str, training: bool, dtype: torch.dtype) -> None:
    norm = nn.BatchNorm2d(3, device="meta", dtype=dtype).train(training)
    x = LAYOUTS[layout](dtype)
    with torch.no_grad():
        assert_same(norm, x)
    assert_same(norm, x)


@pytest.mark.parametrize("name", load_zoo("builtin").names)
def test_builtin_models_have_the_same_outputs(name: str) -> None:
    spec = load_zoo("builtin")[name]
    assert spec.example_inputs is not None
    with torch.device("meta"):
        model = spec.build()
        inputs = spec.example_inputs(model)
        from pytest_headswap.engine.pytorch.outputs import flatten_outputs

        for training in (True, False):
            assert_same(lambda x: tuple(t for _, t in flatten_outputs(model.train(training)(x))), inputs)  # noqa: B023
