"""New tensors are like the old ones, and old ones come back on the device and in the dtype of the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import nn

from pytest_headswap.engine import HeadSwapError, find_heads, swap_head

X = torch.randn(4, 8)
IMAGES = torch.randn(2, 3, 8, 8)


def plain() -> Any:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 10), nn.BatchNorm1d(10)).eval()


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("format_", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
def test_a_new_convolution_keeps_the_memory_format(kernel: int, format_: torch.memory_format) -> None:
    def built(classes: int) -> Any:
        model: Any = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, classes, kernel), nn.Flatten(2))
        return model.to(memory_format=format_)

    for new_head in (None, lambda features, classes: nn.Conv2d(features, classes, kernel)):
        model = built(10)
        swap_head(model, 5, IMAGES, new_head=new_head)
        assert model[1].weight.stride() == built(5)[1].weight.stride()


def test_a_transposed_weight_keeps_its_strides() -> None:
    model = plain()
    model[2].weight = nn.Parameter(torch.randn(16, 10).T)
    swap_head(model, 5, X)
    assert model[2].weight.stride() == (1, 5)
    assert model(X).shape == (4, 5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("count", [5, 0])
def test_old_tensors_come_back_in_the_dtype_of_the_model(dtype: torch.dtype, count: int) -> None:
    model = plain()
    expected = model(X)
    swap = swap_head(model, count, X)
    new = model(X)
    model.to(dtype)
    swap.restore()
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {dtype}
    assert model[3].num_batches_tracked.dtype == torch.long
    torch.testing.assert_close(model(X.to(dtype)).float(), expected, atol=0.05, rtol=0.05)
    model.float()
    swap.reapply()
    torch.testing.assert_close(model(X), new, atol=0.05, rtol=0.05)


def test_old_modules_come_back_in_the_dtype_of_the_model() -> None:
    model = plain()
    swap = swap_head(model, 5, X, new_head=nn.Sequential(nn.Linear(16, 5)))
    model.double()
    swap.restore()
    assert model(X.double()).shape == (4, 10)


def test_the_old_head_follows_the_model_if_something_without_tensors_took_its_place() -> None:
    model = plain()
    swap = swap_head(model, 5, X, new_head=nn.Sequential(nn.Linear(16, 5)))
    model[2] = nn.Identity()
    model.double()
    swap.restore()
    assert model(X.double()).shape == (4, 10)


def test_old_tensors_come_back_on_the_device_of_the_model() -> None:
    model = plain()
    swap = swap_head(model, 5, X)
    model.to("meta")
    swap.restore()
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}


def test_a_head_of_another_dtype_than_the_model_stays_so() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.body(x).double())  # type: ignore[no-any-return]

    model = Mixed()
    swap = swap_head(model, 5, X)
    assert model.fc.weight.dtype == torch.float64
    swap.restore()
    assert (model.body.weight.dtype, model.fc.weight.dtype) == (torch.float32, torch.float64)


def test_an_unmoved_model_gets_the_same_objects_back() -> None:
    model = plain()
    before = dict(model.named_parameters()) | dict(model.named_buffers())
    swap_head(model, 5, X).restore()
    after = dict(model.named_parameters()) | dict(model.named_buffers())
    assert all(after[name] is value for name, value in before.items())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_new_parameters_can_be_trained_if_swapped_without_gradients(context: Any) -> None:
    model = plain()
    with context():
        swap = swap_head(model, 5, X)
    model(X).sum().backward()
    assert all(parameter.grad is not None for parameter in swap.parameters())


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("inputs", [X, None], ids=["inputs", "no inputs"])
def test_a_sharded_model_is_refused_with_the_order_to_follow(inputs: torch.Tensor | None) -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this torch has no fully_shard")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    model = fsdp.fully_shard(plain(), mesh=mesh)
    for call in (lambda: swap_head(model, 5, inputs), lambda: find_heads(model, inputs)):
        with pytest.raises(HeadSwapError, match=r"swap the head and freeze first, then shard the model") as caught:
            call()
        assert caught.value.reason == "unsupported_model"


@pytest.fixture
def new_parameters_on_a_move() -> Iterator[None]:
    """Let a move make new parameters, as it does on XLA and some other devices."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.usefixtures("new_parameters_on_a_move")
@pytest.mark.parametrize("moved", ["before restore", "after restore", "after reapply", "always"])
@pytest.mark.parametrize("options", [{}, {"new_head": nn.Linear}], ids=["tensors", "module"])
@pytest.mark.parametrize("count", [5, 10, 0])
def test_a_swap_follows_moves_that_make_new_parameters(moved: str, options: Any, count: int) -> None:
    if options and not count:
        return
    model = plain()
    expected = model(X)
    swap = swap_head(model, count, X, **options)
    new = model(X)
    dtypes = iter([torch.float64, torch.bfloat16, torch.float64])
    dtype = torch.float32

    def move(when: str) -> None:
        nonlocal dtype
        if moved in (when, "always"):
            dtype = next(dtypes)
            model.to(dtype)

    move("before restore")
    swap.restore()
    assert {value.dtype for value in model.parameters()} == {dtype}
    torch.testing.assert_close(model(X.to(dtype)).float(), expected, atol=0.05, rtol=0.05)
    move("after restore")
    swap.reapply()
    move("after reapply")
    assert {value.dtype for value in model.parameters()} == {dtype}
    torch.testing.assert_close(model(X.to(dtype)).float(), new, atol=0.05, rtol=0.05)
    swap.restore()
    assert {value.dtype for value in model.parameters()} == {dtype}
    torch.testing.assert_close(model(X.to(dtype)).float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.usefixtures("new_parameters_on_a_move")
def test_a_head_that_was_trained_after_a_move_is_the_one_that_reapply_puts_back() -> None:
    model = plain()
    swap = swap_head(model, 5, X)
    model.double()
    with torch.no_grad():
        for value in swap.parameters():
            value.fill_(2)
    swap.restore()
    swap.reapply()
    assert all(bool((value == 2).all()) for value in swap.parameters())
    assert [name for name, value in model.named_parameters() if value.dtype != torch.float64] == []


@pytest.mark.usefixtures("new_parameters_on_a_move")
def test_two_swaps_of_a_moved_model_are_restored_one_after_the_other() -> None:
    model = plain()
    expected = model(X)
    swaps = [swap_head(model, 5, X), swap_head(model, 3, X)]
    model.double()
    for swap in reversed(swaps):
        swap.restore()
    assert {value.dtype for value in model.parameters()} == {torch.float64}
    torch.testing.assert_close(model(X.double()).float(), expected, atol=0.001, rtol=0.001)
