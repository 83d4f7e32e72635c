"""Parameter groups hold each trainable parameter once, with a learning rate that follows the data flow."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from pytest_headswap import HeadSwapError, HeadSwapWarning, Swap, freeze_backbone, swap_head
from tests.usable import usable_transformers

X = torch.zeros(2, 8)


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(self.norm(x)).relu())  # type: ignore[no-any-return]


class Net(nn.Module):
    """Blocks that are registered in another order than they run in, and a layer that does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 10)
        self.norm = nn.LayerNorm(8)
        self.b, self.a = Block(), Block()
        self.unused = nn.Linear(8, 8)
        self.stem = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.b(self.a(self.stem(x) * self.scale))))  # type: ignore[no-any-return]


def _rates(swap: Swap, **arguments: Any) -> dict[str, float]:
    """Return the learning rate of each parameter, and check that each is in one group."""
    names = {id(value): name for name, value in swap.model.named_parameters() if value.requires_grad}
    groups = swap.param_groups(**arguments)
    ids = [id(value) for group in groups for value in group["params"]]
    assert sorted(ids) == sorted(names)
    torch.optim.AdamW(groups)
    return {names[id(value)]: group["lr"] for group in groups for value in group["params"]}


def test_without_layer_decay_the_backbone_has_one_rate() -> None:
    swap = swap_head(Net(), 5, X)
    rates = _rates(swap, lr=0.1, backbone_lr=0.01)
    assert {name for name, rate in rates.items() if rate == 0.1} == {"fc.weight", "fc.bias"}
    assert set(rates.values()) == {0.1, 0.01}
    assert set(_rates(swap, lr=0.1).values()) == {0.1}


def test_rates_follow_the_data_flow_and_not_the_order_of_names() -> None:
    rates = _rates(swap_head(Net(), 5, X), lr=1.0, layer_decay=0.5)
    layers = {"fc": 1.0, "norm": 0.5, "b": 0.5, "a": 0.25, "stem": 0.125, "scale": 0.125, "unused": 0.125}
    assert rates == {name: layers[name.partition(".")[0]] for name in rates}


def test_the_last_layer_of_the_backbone_has_the_rate_of_the_backbone() -> None:
    rates = _rates(swap_head(Net(), 5, X), lr=1.0, backbone_lr=0.1, layer_decay=0.5)
    assert (rates["fc.weight"], rates["b.up.weight"], rates["a.up.weight"]) == (1.0, 0.1, 0.05)


def test_groups_are_named_and_go_from_the_head_to_the_first_layer() -> None:
    groups = swap_head(Net(), 5, X).param_groups(0.1, layer_decay=0.9, weight_decay=0.05)
    names = [group["name"] for group in groups]
    layers = [f"layer {number}" for number in (3, 2, 1)]
    assert names == [end for name in ("head", *layers) for end in (name, f"{name}, no decay")]
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0] * 4


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_norms_and_biases_do_not_decay_in_any_optimizer(optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    swap = swap_head(Net(), 5, X)
    made = optimizer(swap.param_groups(0.1), weight_decay=0.3)
    for group in made.param_groups:
        assert {value.dim() > 1 for value in group["params"]} == {group["weight_decay"] == 0.3}


def test_a_scheduler_and_a_saved_state_keep_the_groups() -> None:
    swap = swap_head(Net(), 5, X)
    optimizer = torch.optim.AdamW(swap.param_groups(0.1, layer_decay=0.5))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    swap.model(X).sum().backward()
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    again = torch.optim.AdamW(swap.param_groups(0.1, layer_decay=0.5))
    again.load_state_dict(optimizer.state_dict())
    assert [group["name"] for group in again.param_groups] == [group["name"] for group in optimizer.param_groups]


def test_frozen_parameters_are_left_out_and_rates_count_their_layers() -> None:
    model = Net()
    swap = swap_head(model, 5, X)
    model.b.requires_grad_(False)
    rates = _rates(swap, lr=1.0, layer_decay=0.5)
    assert rates["a.up.weight"] == 0.25
    assert not any(name.startswith("b.") for name in rates)
    freeze_backbone(swap)
    assert _rates(swap, lr=1.0, layer_decay=0.5) == {"fc.weight": 1.0, "fc.bias": 1.0}


def test_tied_parameters_are_in_one_group_with_the_rate_of_their_first_use() -> None:
    model = Net()
    model.b.up.weight = model.a.up.weight
    rates = _rates(swap_head(model, 5, X), lr=1.0, layer_decay=0.5)
    assert rates["b.up.weight"] == 0.25  # registered under b first, and used in a first
    assert rates["b.up.bias"] == 0.5


def test_heads_of_all_swaps_have_the_rate_of_the_head() -> None:
    class Two(Net):
        def __init__(self) -> None:
            super().__init__()
            self.colour = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> Any:
            features = self.norm(self.b(self.a(self.stem(x) * self.scale)))
            return self.fc(features), self.colour(features)

    model = Two()
    first = swap_head(model, 5, X, head="fc")
    swap_head(model, 4, X, head="colour")
    rates = _rates(first, lr=1.0, layer_decay=0.5)
    assert {name for name, rate in rates.items() if rate == 1.0} == {
        *("fc.weight", "fc.bias", "colour.weight", "colour.bias")
    }


def test_branches_in_parallel_share_a_rate() -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(8, 8)
            self.long = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
            self.short = nn.Linear(8, 8)
            self.exit = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 10))
            self.last = nn.Linear(8, 8)
            self.fc = nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> Any:
            x = self.stem(x)
            x = self.long(x) + self.short(x)
            early = self.exit(x)
            x = self.last(x).relu()
            return self.fc(x), early

    rates = _rates(swap_head(Parallel(), 5, X, head=["fc", "exit.2"]), lr=1.0, layer_decay=0.5)
    assert rates["long.0.weight"] == rates["long.2.weight"] == rates["short.weight"] == 0.25
    assert rates["exit.0.weight"] == rates["last.weight"] == 0.5
    assert rates["exit.2.weight"] == 1.0
    assert rates["stem.weight"] == 0.125


def test_a_warning_says_that_most_layers_share_a_rate() -> None:
    class Parallel(nn.Module):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.stem = nn.Linear(8, 8)
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(count))
            self.fc = nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.fc(sum(layer(x) for layer in self.layers))  # type: ignore[no-any-return]

    swap = swap_head(Parallel(24), 5, X)
    with pytest.warns(HeadSwapWarning, match="24 of the 25 weights of the backbone share one learning rate") as caught:
        rates = _rates(swap, lr=1.0, layer_decay=0.5)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert (rates["layers.0.weight"], rates["stem.weight"]) == (0.5, 0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swap.param_groups(0.1)
        swap_head(Parallel(4), 5, X).param_groups(0.1, layer_decay=0.5)


def test_masks_and_computed_weights_do_not_hide_the_order() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 8)
            self.layers = nn.ModuleList(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)) for _ in range(3))
            self.lstm = nn.LSTM(8, 8, num_layers=2, batch_first=True)
            self.fc = nn.Linear(8, 10)

        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            x = self.table(tokens)
            for layer in self.layers:
                x = layer(x) * mask[..., None]
            return self.fc(self.lstm(x)[0][:, -1])  # type: ignore[no-any-return]

    inputs = {"tokens": torch.ones(2, 5, dtype=torch.long), "mask": torch.ones(2, 5)}
    rates = _rates(swap_head(Masked(), 5, inputs), lr=1.0, layer_decay=0.5)
    weight = "layers.{}.parametrizations.weight.original1"
    assert rates["lstm.weight_ih_l0"] == rates["lstm.weight_hh_l1"] == 0.5
    assert [rates[weight.format(index)] for index in (2, 1, 0)] == [0.25, 0.125, 0.0625]
    assert rates["table.weight"] == 0.03125


def test_each_layer_of_a_transformer_has_its_own_rate() -> None:
    transformers = usable_transformers()
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, vocab_size=30
    )
    tokens = torch.ones(2, 6, dtype=torch.long)
    swap = swap_head(
        transformers.BertForSequenceClassification(config), 5, {"input_ids": tokens, "attention_mask": tokens}
    )
    rates = _rates(swap, lr=1.0, layer_decay=0.5)
    by_layer = [{rate for name, rate in rates.items() if f"encoder.layer.{i}." in name} for i in range(3)]
    assert by_layer == [{0.0625}, {0.125}, {0.25}]
    assert {rate for name, rate in rates.items() if "embeddings" in name} == {0.03125}


def _timm_models() -> list[nn.Module]:
    vit = timm.create_model(
        "vit_tiny_patch16_224", embed_dim=32, depth=4, num_heads=2, img_size=32, patch_size=8, num_classes=10
    )
    convnext = timm.create_model("convnext_atto", dims=(8, 8, 16, 16), depths=(1, 2, 2, 1), num_classes=10)
    resnet = timm.create_model("resnet18", channels=(8, 8, 16, 16), num_classes=10)
    return [vit, convnext, resnet]


@pytest.mark.parametrize("model", _timm_models(), ids=lambda model: type(model).__name__)
def test_layers_are_in_the_order_of_timm(model: nn.Module) -> None:
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    names = {id(value): name for name, value in model.named_parameters()}
    expected = {names[id(value)]: group["lr_scale"] for group in groups for value in group["params"]}
    rates = _rates(swap_head(model, 5), lr=1.0, layer_decay=0.5)
    weights = [name for name in rates if model.get_parameter(name).dim() > 1 and name in expected]
    assert len({expected[name] for name in weights}) > 4
    for one, other in itertools.permutations(weights, 2):
        assert expected[one] >= expected[other] or rates[one] <= rates[other], (one, other)
        assert rates[one] >= rates[other] or expected[one] <= expected[other], (one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pass lr, the learning rate of the heads"),
        ({"lr": -0.1}, "lr must be a number of at least 0, not -0.1"),
        ({"lr": "0.1"}, "lr must be a number of at least 0"),
        ({"lr": True}, "lr must be a number of at least 0"),
        ({"lr": float("nan")}, "lr must be a number of at least 0"),
        ({"lr": float("inf")}, "lr must be a number of at least 0"),
        ({"lr": torch.ones(2)}, "lr must be a number of at least 0"),
        ({"lr": 0.1, "backbone_lr": -1}, "backbone_lr must be a number of at least 0"),
        ({"lr": 0.1, "weight_decay": -1}, "weight_decay must be a number of at least 0"),
        ({"lr": 0.1, "layer_decay": 0}, "layer_decay must be more than 0 and at most 1"),
        ({"lr": 0.1, "layer_decay": 1.1}, "layer_decay must be more than 0 and at most 1"),
        ({"lr": 0.1, "layer_decay": "0.9"}, "layer_decay must be more than 0 and at most 1"),
    ],
)
def test_bad_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadSwapError, match=message) as caught:
        swap_head(Net(), 5, X).param_groups(**arguments)
    assert caught.value.reason == "bad_argument"


def test_a_model_without_trainable_parameters_is_refused() -> None:
    swap = swap_head(Net(), 5, X)
    swap.model.requires_grad_(False)
    with pytest.raises(HeadSwapError, match="no parameter of the model has requires_grad=True"):
        swap.param_groups(0.1)


def test_wrapped_models_and_other_devices_work() -> None:
    swap = swap_head(nn.DataParallel(Net()), 5, X)
    rates = _rates(swap, lr=1.0, layer_decay=0.5)
    assert rates["module.a.up.weight"] == 0.25
    swap = swap_head(Net().to("meta", torch.bfloat16), 5, X.bfloat16())
    assert _rates(swap, lr=1.0, layer_decay=0.5)["a.up.weight"] == 0.25
    swap = swap_head(Net(), 5, X)
    swap.model.double()
    assert _rates(swap, lr=1.0, layer_decay=0.5)["a.up.weight"] == 0.25


class _Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.here = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
        self.before = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        return self.here(x) + self.before(before)  # type: ignore[no-any-return]


class _NineCells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.cells = nn.ModuleList(_Cell() for _ in range(9))
        self.fc = nn.Linear(8, 3)


class _LongSkip(_NineCells):
    """One connection skips all layers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x = self.stem(x)
        for cell in self.cells:
            x = cell(x, x)
        return self.fc(first + x)  # type: ignore[no-any-return]


class _ReadsTwoCells(_NineCells):
    """Each cell reads the outputs of the two cells before it, as in NASNet."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = x = self.stem(x)
        for cell in self.cells:
            before, x = x, cell(x, before)
        return self.fc(x)  # type: ignore[no-any-return]


class _TwoStreams(_NineCells):
    """Two streams run beside each other and meet in each block, as in TNT."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = outer = self.stem(x)
        for cell in self.cells:
            inner = cell(inner, inner).relu()
            outer = cell(outer + inner, outer)
        return self.fc(outer)  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", [_ReadsTwoCells, _TwoStreams, _LongSkip])
def test_stages_are_the_layers_where_data_flows_past_each_of_them(model: type[nn.Module]) -> None:
    rates = _rates(swap_head(model(), 5, torch.randn(2, 8)), lr=1.0, layer_decay=0.5)
    assert {name: rate for name, rate in rates.items() if name.endswith("before.weight")} == {
        f"cells.{index}.before.weight": 0.5 ** (9 - index) for index in range(9)
    }
    assert rates["cells.0.here.0.weight"] == rates["cells.0.before.weight"]
    assert rates["stem.weight"] == 0.5**10
