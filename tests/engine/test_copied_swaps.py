"""A copy or pickle of a swap restores the copied model completely, and leaves the original alone."""

from __future__ import annotations

import copy
import pickle
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, Swap, freeze_backbone, swap_head
from pytest_headswap.engine.swapping.transaction import Transaction
from tests.usable import usable_transformers

pytestmark = pytest.mark.filterwarnings("ignore::pytest_headswap.HeadSwapWarning")


@dataclass
class Settings:
    """A configuration with a class count, inside another one."""

    num_classes: int = 10


class Configured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = types.SimpleNamespace(head=Settings(), names=[f"class {index}" for index in range(10)])
        self.gru, self.fc = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.gru(x)[0][:, -1])
        return out.reshape(-1, self.config.head.num_classes)


class Raw(nn.Module):
    """A head of raw parameters in a nested wrapper, and a layer that is tied to it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16))
        self.weight, self.bias = nn.Parameter(torch.randn(16, 10)), nn.Parameter(torch.zeros(10))
        self.classes = 10

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) @ self.weight + self.bias
        return out.view(-1, self.classes)


def bert() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers = usable_transformers()
    config = transformers.BertConfig(vocab_size=50, **sizes)
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def vit() -> nn.Module:
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=1, num_heads=2)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "attributes": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10)), torch.randn(2, 8)),
    "configuration": (Configured, torch.randn(2, 5, 8)),
    "raw parameters": (Raw, torch.randn(2, 8)),
    "timm": (vit, torch.randn(2, 3, 32, 32)),
    "transformers": (bert, torch.ones(2, 4, dtype=torch.long)),
}
COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
}


def described(model: nn.Module) -> tuple[str, dict[str, Any], str]:
    """Return what a swap may change: layers, tensors and attributes."""
    config: Any = getattr(model, "config", None)
    plain = {
        f"{path}.{key}": value
        for path, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, (int, str, list, dict)) and not key.startswith("_")
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return repr(model), copy.deepcopy({**plain, **shapes}), repr(config)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", MODELS)
def test_a_copied_swap_restores_and_reapplies_the_copied_model(name: str, how: str) -> None:
    build, x = MODELS[name]
    model = build()
    before = described(model)
    swap = swap_head(model, 5, x)
    swapped = described(model)
    copied: Swap = COPIES[how](swap)
    copied.restore()
    assert described(copied.model) == before
    assert described(model) == swapped, "the original stays swapped"
    copied.model(x)
    copied.reapply()
    assert described(copied.model) == swapped
    swap.restore()
    assert described(model) == before


@pytest.mark.parametrize("how", COPIES)
def test_a_swap_inside_a_copied_module_belongs_to_the_copied_model(how: str) -> None:
    outer: Any = nn.Module()
    outer.model = Configured()
    outer.swap = swap_head(outer.model, 5, torch.randn(2, 5, 8))
    freeze_backbone(outer.swap)
    copied: Any = COPIES[how](outer)
    assert copied.swap.model is copied.model
    assert list(copied.swap.parameters()) == [copied.model.fc.weight, copied.model.fc.bias]
    copied.swap.restore()
    assert copied.model.config.head.num_classes == copied.model.fc.out_features == 10
    assert outer.model.config.head.num_classes == outer.model.fc.out_features == 5


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_made_after_restore_can_be_reapplied(how: str) -> None:
    swap = swap_head(Configured(), 5, torch.randn(2, 5, 8))
    swap.restore()
    copied = COPIES[how](swap)
    copied.reapply()
    assert copied.model(torch.randn(2, 5, 8)).shape == (2, 5)
    assert swap.model(torch.randn(2, 5, 8)).shape == (2, 10)


@pytest.mark.parametrize("how", COPIES)
def test_an_attribute_that_did_not_exist_is_removed_again(how: str) -> None:
    model = nn.Linear(2, 3)
    changes = Transaction(model)
    changes.set(vars(model), "added", 1)
    copied, undo = COPIES[how]((model, changes))
    assert copied.added == 1
    undo.roll_back()
    assert not hasattr(copied, "added")
    assert model.added == 1


def test_a_model_that_refers_to_itself_and_to_functions_can_be_copied() -> None:
    model = Configured()
    model.__dict__["loop"] = [model, {"self": model}, torch.relu, types]
    model.__dict__["loop"].append(model.__dict__["loop"])
    model.__dict__["loop"].remove(types)
    swap = copy.deepcopy(swap_head(model, 5, torch.randn(2, 5, 8)))
    swap.restore()
    assert swap.model.loop[0] is swap.model  # type: ignore[index]
    assert swap.model(torch.randn(2, 5, 8)).shape == (2, 10)


class Two(nn.Module):
    """A model with two tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.colour = nn.Linear(8, 16), nn.Linear(16, 10), nn.Linear(16, 7)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x).relu()
        return {"kind": self.kind(features), "colour": self.colour(features)}


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_several_swaps_know_of_each_other(how: str) -> None:
    model = Two()
    x = torch.randn(2, 8)
    swaps = [
        swap_head(model, 5, x, head="kind"),
        swap_head(model, 4, x, head="colour"),
        swap_head(model, 3, x, head="kind"),
    ]
    copied: list[Swap] = COPIES[how](swaps)
    freeze_backbone(copied[1])
    trainable = [name for name, parameter in copied[0].model.named_parameters() if parameter.requires_grad]
    assert trainable == ["kind.weight", "kind.bias", "colour.weight", "colour.bias"]
    with pytest.raises(HeadSwapError, match="restore that one first"):
        copied[0].restore()
    for swap in reversed(copied):
        swap.restore()
    assert {key: value.shape[1] for key, value in copied[0].model(x).items()} == {"kind": 10, "colour": 7}
    assert {key: value.shape[1] for key, value in model(x).items()} == {"kind": 3, "colour": 4}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_restored_swap_is_not_in_force(how: str) -> None:
    swap = swap_head(Two(), 5, torch.randn(2, 8), head="kind")
    swap.restore()
    other = swap_head(swap.model, 4, torch.randn(2, 8), head="colour")
    copied, copied_other = COPIES[how]((swap, other))
    freeze_backbone(copied_other)
    trainable = [name for name, parameter in copied.model.named_parameters() if parameter.requires_grad]
    assert trainable == ["colour.weight", "colour.bias"]
