"""Failures of head replacement that public issue trackers report, each with the expected behaviour.

Failures with layers, several heads, reparametrisation and wrappers are in the tests of those.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, find_heads, swap_head

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


def test_control_flow_on_arguments_and_shapes_is_supported() -> None:
    """vision#6817, pytorch#70485: symbolic tracing fails on it."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(4, 16)
            self.fc = nn.Linear(16, 5)

        def forward(self, x: Tensor, pool: str | None = None) -> Tensor:
            body = self.wide if x.shape[-1] == 8 else self.narrow
            x = body(x)
            for _ in range(x.shape[0]):
                x = x.relu()
            return self.fc(x) if pool is None else x

    model = Branches()
    swap_head(model, 3, X)
    assert model(X).shape == (2, 3)


def test_the_observed_width_counts_not_the_declared_one() -> None:
    """ghostnet: the reset used the width that an attribute stated."""
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 5))
    model.num_features = 99  # type: ignore[assignment]
    model[1].in_features = 99  # type: ignore[assignment]
    swap = swap_head(model, 3, X)
    assert swap.heads[0].in_features == 16
    assert model[1].weight.shape == (3, 16)


def test_editing_out_features_does_not_change_the_head() -> None:
    """Editing the attribute changes only the repr: the engine reads the weights."""
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 5))
    model[1].out_features = 3
    (head,) = find_heads(model, X)
    assert head.num_classes == 5
    swap_head(model, 3, X)
    assert model(X).shape == (2, 3)


def test_every_value_of_a_new_head_is_initialised() -> None:
    """transformers#28122: an uninitialised head gave 1e37 and NaN losses."""

    class NoReset(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(5, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.T

    for _ in range(20):
        junk = torch.full((3000, 8), 1e37)  # so that freed memory is not zero
        del junk
        model = NoReset()
        swap_head(model, 3000, X)
        assert model.weight.abs().max() < 1


def test_the_head_of_a_sequential_classifier_is_its_last_layer() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 5)))
    assert [head.path for head in find_heads(model, X)] == ["1.3"]


def test_only_the_last_layer_of_a_composite_head_changes() -> None:
    """timm#1816, deit#2: the rebuilt head lost its forward."""

    class Composite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc = nn.LayerNorm(16), nn.Linear(16, 5)

        def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
            x = self.norm(x)
            return x if pre_logits else self.fc(x)

    model: Any = nn.Sequential(nn.Linear(8, 16), Composite())
    composite, norm = model[1], model[1].norm
    swap_head(model, 3, X)
    assert model[1] is composite
    assert composite.norm is norm
    assert composite(torch.randn(2, 16), pre_logits=True).shape == (2, 16)


class Detr(nn.Module):
    """Queries, each with a class or no object, and a box."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(7, 16))
        self.body = nn.Linear(8, 16)
        self.class_embed = nn.Linear(16, classes + 1)
        self.bbox_embed = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.body(x)[:, None] + self.queries
        return {"pred_logits": self.class_embed(x), "pred_boxes": self.bbox_embed(x).sigmoid()}


def test_the_user_selects_between_classes_and_boxes_of_queries() -> None:
    model = Detr(10)
    with pytest.raises(HeadSwapError, match=r"'class_embed' .11 classes., 'bbox_embed.2' .4 classes.") as caught:
        swap_head(model, 3, X)
    assert caught.value.reason == "ambiguous"
    swap_head(model, 4, X, head="class_embed")  # three classes and no object
    assert {name: tuple(value.shape) for name, value in model(X).items()} == {
        "pred_logits": (2, 7, 4),
        "pred_boxes": (2, 7, 4),
    }


def test_the_count_of_a_squeezenet_is_updated_and_its_tail_stays() -> None:
    """vision#173."""
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.squeezenet1_1(weights=None)
    tail = list(model.classifier)[2:]
    swap_head(model, 3)
    assert model.num_classes == 3
    assert list(model.classifier)[2:] == tail
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 3)


def test_the_error_for_a_plain_tensor_with_one_entry_per_class_names_the_remedy() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 5)
            self.class_weights = torch.ones(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * self.class_weights  # type: ignore[no-any-return]

    with pytest.raises(
        HeadSwapError, match=r"class_weights: it has one entry per class.*register it as a buffer"
    ) as caught:
        swap_head(Weighted(), 3, X)
    assert caught.value.reason == "unsupported_layer"


def test_two_dimensions_of_one_output_are_never_swapped_together() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.channels = nn.Linear(3, 5), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.channels(self.tokens(x.mT).mT)  # type: ignore[no-any-return]

    model, inputs = Mixer(), torch.randn(2, 3, 8)
    with pytest.raises(HeadSwapError, match="several dimensions of one output") as caught:
        swap_head(model, 4, inputs)
    assert caught.value.reason == "ambiguous"
    swap_head(model, 4, inputs, head="channels")
    assert model(inputs).shape == (2, 5, 4)


def test_a_swap_in_inference_mode_gives_a_head_that_can_be_trained() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 5))
    with torch.inference_mode():
        swap_head(model, 3, X)
    model(X.clone()).sum().backward()
    assert model[1].weight.grad is not None
    assert not model[1].weight.is_inference()


def test_a_sample_without_a_batch_dimension_is_traced() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 5))
    assert swap_head(model, 3, X[0]).heads[0].class_dim == 0
    assert model(X[0]).shape == (3,)


def test_a_warning_points_to_the_call_of_swap_head() -> None:
    from pytest_headswap.engine import HeadSwapWarning

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x).detach()  # type: ignore[no-any-return]

    with pytest.warns(HeadSwapWarning, match="no gradient reaches fc.weight") as caught:
        swap_head(Cut(), 3, X)
    assert caught[0].filename == __file__
