"""Inputs are inferred from what a model states and from its layers. Every guess has to run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, swap_head
from pytest_headswap.engine.abstract.infer_inputs import infer_inputs


class Exact(nn.Module):
    """A model that accepts one shape only, and states it under some name."""

    def __init__(self, shape: tuple[int, ...], layer: nn.Module, **stated: Any) -> None:
        super().__init__()
        self.shape, self.layer, self.fc = shape, layer, nn.Linear(8, 10)
        for name, value in stated.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"not a batch of {self.shape}")
        return self.fc(self.layer(x).flatten(2).mean(2))  # type: ignore[no-any-return]


def conv(rank: int, channels: int) -> nn.Module:
    kinds: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layer: nn.Module = kinds[rank - 1](channels, 8, 3)
    return layer


@pytest.mark.parametrize(
    ("shape", "stated"),
    [
        ((3, 50, 50), {"img_size": 50}),
        ((3, 50, 60), {"image_size": (50, 60)}),
        ((3, 50, 60), {"input_shape": (3, 50, 60)}),
        ((3, 50, 60), {"input_shape": (50, 60, 3)}),
        ((3, 50, 50), {"config": SimpleNamespace(image_size=50, num_channels=3)}),
        ((3, 50, 50), {"hparams": {"img_size": 50}}),
        ((3, 50, 50), {"example_input_array": torch.zeros(1, 3, 50, 50)}),
        ((22, 777), {"input_shape": (1, 22, 777)}),
        ((22, 777), {"n_chans": 22, "n_times": 777}),
        ((1, 4321), {"chunk_size": 4321}),
        ((5, 333), {"seq_len": 333}),
        ((2, 40, 40, 40), {"img_size": (40, 40, 40)}),
        ((1, 12, 40, 40), {"num_frames": 12, "img_size": 40}),
    ],
    ids=str,
)
def test_a_stated_size_is_tried(shape: tuple[int, ...], stated: dict[str, Any]) -> None:
    model = Exact(shape, conv(len(shape) - 1, shape[0]), **stated)
    inferred = infer_inputs(model).tensors()[0].shape
    assert inferred[1:] == shape
    assert inferred[0] == 2 or "example_input_array" in stated


@pytest.mark.parametrize("stated", [{"img_size": 31}, {"in_chans": 7, "seq_len": -1}, {"input_shape": "unknown"}])
def test_a_statement_that_does_not_run_is_ignored(stated: dict[str, Any]) -> None:
    model = Exact((3, 224, 224), conv(2, 3), **stated)
    assert infer_inputs(model).tensors()[0].shape == (2, 3, 224, 224)


def test_a_property_that_raises_is_ignored() -> None:
    class Raising(Exact):
        @property
        def dummy_inputs(self) -> Any:
            raise RuntimeError("no")

    assert infer_inputs(Raising((3, 224, 224), conv(2, 3))).tensors()[0].shape == (2, 3, 224, 224)


class Patches(nn.Module):
    """A vision transformer without a convolution, whose position table fixes the number of patches."""

    def __init__(self, grid: int, patch: int, channels: int) -> None:
        super().__init__()
        self.grid, self.patch, self.channels = grid, patch, channels
        self.embed = nn.Linear(channels * patch**2, 8)
        self.positions = nn.Parameter(torch.zeros(1, grid**2 + 1, 8))
        self.fc = nn.Linear(8, 10)

    def forward(self, image: Tensor) -> Tensor:
        batch, channels, *_ = image.shape
        if channels != self.channels or image.dim() != 4:
            raise ValueError("not a batch of images")
        patches = image.reshape(batch, channels, self.grid, self.patch, self.grid, self.patch)
        tokens = self.embed(patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))
        return self.fc((tokens + self.positions[:, 1:]).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("grid", "patch", "channels"), [(8, 32, 3), (5, 9, 3), (7, 4, 1), (6, 8, 13)])
def test_the_image_size_follows_from_the_position_table(grid: int, patch: int, channels: int) -> None:
    side = grid * patch
    assert infer_inputs(Patches(grid, patch, channels)).tensors()[0].shape == (2, channels, side, side)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(20, 6), nn.Linear(6, 10)

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.fc((self.embed(ids) * mask.unsqueeze(-1)).mean(1))  # type: ignore[no-any-return]


class TokensAndMask(Tokens):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.logits(input_ids, attention_mask)


class TokenBatch(Tokens):
    def forward(self, batch: Any) -> Tensor:
        return self.logits(batch["input_ids"], batch["attention_mask"])


class KeywordBatch(Tokens):
    def forward(self, batch: Any) -> Tensor:
        return self._forward(**batch)

    def _forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.logits(input_ids, attention_mask)


class ImageAndTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.table, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(5, 8), nn.Linear(8, 10)

    def forward(self, picture: Tensor, record: Tensor) -> Tensor:
        return self.fc(self.image(picture).mean((2, 3)) + self.table(record))  # type: ignore[no-any-return]


class ImageAndTableBatch(ImageAndTable):
    def forward(self, batch: Any) -> Tensor:  # type: ignore[override]
        return super().forward(batch["picture"], batch["record"])


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 10)

    def forward(self, left: Tensor, *, right: Tensor) -> Tensor:
        return self.fc((self.image(left) - self.image(right)).mean((2, 3)))  # type: ignore[no-any-return]


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, images: list[Tensor]) -> Tensor:
        if not isinstance(images, list):
            raise TypeError("not a list")
        return self.fc(self.image(torch.stack(images)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "build", [TokensAndMask, TokenBatch, KeywordBatch, ImageAndTable, ImageAndTableBatch, Siamese, Listed]
)
def test_arguments_are_found_by_their_names_and_the_layers_that_take_them(build: Callable[[], nn.Module]) -> None:
    swap = swap_head(build(), 5)
    assert [head.path for head in swap.heads] == ["fc"]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (conv(3, 1), (1, 96, 96, 96)),
        (conv(3, 4), (4, 32, 32, 32)),
        (conv(2, 1), (1, 28, 28)),
        (conv(1, 1), (1, 16000)),
    ],
    ids=["volume", "small volume", "grayscale", "wave"],
)
def test_common_sizes_of_other_kinds_of_data_are_tried(layer: nn.Module, shape: tuple[int, ...]) -> None:
    assert infer_inputs(Exact(shape, layer)).tensors()[0].shape[1:] == shape


def test_a_graph_is_not_guessed() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 10)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.fc(x[edge_index[0]])  # type: ignore[no-any-return]

    with pytest.raises(HeadSwapError, match=r"forward requires \(x, edge_index\)") as caught:
        swap_head(Graph(), 5)
    assert caught.value.reason == "no_inputs"


def test_the_error_quotes_what_is_about_the_model() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return missing(self.conv(x))  # type: ignore[name-defined,no-any-return]  # noqa: F821

    with pytest.raises(HeadSwapError, match="NameError: name 'missing' is not defined") as caught:
        swap_head(Broken(), 5)
    assert caught.value.reason == "no_inputs"
    with pytest.raises(HeadSwapError, match="Other inputs will not help") as caught:
        swap_head(Broken(), 5, torch.zeros(2, 3, 8, 8))
    assert caught.value.reason == "forward_failed"


def test_no_warning_about_a_guess_reaches_the_user(recwarn: pytest.WarningsRecorder) -> None:
    swap_head(ImageAndTableBatch(), 5)
    assert not recwarn.list


class KeepsExample(nn.Module):
    """A classifier that keeps an example of its input, such as a LightningModule."""

    def __init__(self, example: Tensor, keep: Callable[[KeepsExample, Tensor], None]) -> None:
        super().__init__()
        self.features, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)
        keep(self, example)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).relu())  # type: ignore[no-any-return]


KEEP: dict[str, Callable[[KeepsExample, Tensor], None]] = {
    "attribute": lambda model, x: setattr(model, "example_input_array", x),
    "attribute of a part": lambda model, x: setattr(model.features, "example", x),
    "buffer": lambda model, x: model.register_buffer("example", x, persistent=False),
    "list": lambda model, x: setattr(model, "examples", [x]),
    "dict": lambda model, x: setattr(model, "examples", {"x": x}),
}


@pytest.mark.parametrize("keep", KEEP.values(), ids=KEEP)
@pytest.mark.parametrize("samples", [2, 10])
def test_an_input_that_the_model_keeps_is_no_tensor_of_the_head(
    samples: int, keep: Callable[[KeepsExample, Tensor], None]
) -> None:
    example = torch.randn(samples, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swap = swap_head(KeepsExample(example, keep), 5, example)
    assert [head.path for head in swap.heads] == ["fc"]


def test_the_example_of_a_model_is_used_without_inputs() -> None:
    assert swap_head(KeepsExample(torch.randn(10, 8), KEEP["attribute"]), 5).heads[0].path == "fc"
