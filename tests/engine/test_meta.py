"""The short way to the shape of a result gives what torch's own way gives, for every operation and layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.engine.meta import _IN_PLACE, _LIKE_INPUT, _SHORTCUTS, MetaMode
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
    except Exception as error:  # noqa: BLE001 - what is raised has to be the same
        return type(error)
    tensors = result if isinstance(result, tuple) else (result,)
    return [(t.shape, t.dtype, t.stride(), t.device, t.requires_grad) for t in tensors]


def assert_same(function: Any, *args: Any) -> None:
    plain = outcome(function, *args)
    with MetaMode():  # type: ignore[no-untyped-call, unused-ignore]
        assert outcome(function, *args) == plain


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", sorted(_LIKE_INPUT))
def test_functions_of_one_tensor(name: str, dtype: torch.dtype, layout: str) -> None:
    function = getattr(torch.ops.aten, name.partition("::")[2]).default
    assert_same(function, LAYOUTS[layout](dtype))


@pytest.mark.parametrize("name", sorted(_IN_PLACE))
def test_functions_in_place_return_what_they_were_given(name: str) -> None:
    function = getattr(torch.ops.aten, name.partition("::")[2], None)
    if function is None:
        pytest.skip("torch has no such operation in place")
    x = LAYOUTS["contiguous"](torch.float32)
    arguments = {"aten::clamp_": (0.0, 1.0), "aten::fill_": (2.0,)}.get(name, ())
    with MetaMode():  # type: ignore[no-untyped-call, unused-ignore]
        assert function(x, *arguments) is x


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "other",
    ["same", "channels last", "float16", "row", "column", "more", "too wide", "number", "whole", "scalar tensor"],
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
        "scalar tensor": lambda: torch.tensor(2.0),
    }
    y = others[other]()
    assert_same(function, x, y)
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
def test_convolutions_along_a_line(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device="meta")
    assert_same(nn.Conv1d(3, 6, 3, padding=1, device="meta"), x)
    assert_same(nn.Conv1d(3, 6, 3, stride=2, dilation=2, device="meta"), x)
    assert_same(nn.ConvTranspose1d(3, 6, 3, device="meta"), x)
    assert_same(lambda t: nn.functional.conv1d(t, torch.empty(6, 3, 3, device="meta"), stride=3), x)
    assert_same(lambda t: nn.functional.conv1d(t, torch.empty(6, 3, 3, device="meta", dtype=torch.float64)), x)


def test_convolutions_of_pixels_and_of_clips() -> None:
    pixel = torch.empty(2, 3, 1, 1, device="meta")
    assert_same(nn.Conv2d(3, 6, 1, device="meta"), pixel)
    assert_same(nn.Conv2d(3, 6, 1, device="meta").to(memory_format=torch.channels_last), pixel)
    assert_same(nn.Conv3d(3, 6, (1, 3, 3), padding=(0, 1, 1), device="meta"), torch.empty(2, 3, 4, 8, 8, device="meta"))


def test_every_shortcut_is_held_against_torch_here() -> None:
    tested = {
        "convolution",
        "add",
        "sub",
        "mul",
        "div",
        "addmm",
        "native_batch_norm",
        "native_layer_norm",
        "native_group_norm",
        "_safe_softmax",
    }
    assert {name.partition("::")[2] for name in _SHORTCUTS} == tested


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
def test_whole_models_give_the_same_outputs(name: str) -> None:
    spec = load_zoo("builtin")[name]
    assert spec.example_inputs is not None
    with torch.device("meta"):
        model = spec.build()
        inputs = spec.example_inputs(model)
        from pytest_headswap.engine.outputs import flatten_outputs

        for training in (True, False):
            assert_same(lambda x: tuple(t for _, t in flatten_outputs(model.train(training)(x))), inputs)  # noqa: B023
