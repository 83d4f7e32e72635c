"""A swapped or frozen model can be saved whole, and `swap.export()` loads where this package is missing."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, Swap, freeze_backbone, swap_head
from tests.usable import usable_transformers

LOAD = """
import sys
sys.modules["pytest_headswap"] = None
import torch
model = torch.load("model.pt", weights_only=False)
x, expected, flags, modes = torch.load("expected.pt", weights_only=True)
out = model(x)
print(torch.equal(getattr(out, "logits", out), expected))
print([p.requires_grad for p in model.parameters()] == flags, [m.training for m in model.modules()] == modes)
model.train()
print(all(m.training for m in model.modules()))
"""


def convolutional() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(body, nn.Sequential(nn.Dropout(), nn.Linear(8, 10)))


class Outer(nn.Module):
    """A model with shared modules, an alias, a recurrent layer, and a method set on an instance by the user."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 8, batch_first=True, dropout=0.1, num_layers=2)
        self.norm = nn.BatchNorm1d(8)
        self.again = self.norm
        self.__dict__["alias"] = self.norm
        self.head = nn.Linear(8, 10)
        self.head.extra_repr = HeadText("mine")  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Any:
        return self.head(self.again(self.norm(self.gru(x)[0].mean(1))))


class HeadText:
    """A method that a user set on an instance."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self) -> str:
        return self.text


def bert() -> nn.Module:
    transformers = usable_transformers()
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    config.num_labels = 10
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def vit() -> nn.Module:
    return timm.create_model(  # type: ignore[no-any-return]
        "vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2, drop_path_rate=0.1, fc_norm=True
    )


def old_weight_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.utils.weight_norm(nn.Linear(8, 10)))


IMAGES, TOKENS = torch.randn(2, 3, 32, 32), torch.ones(2, 6, dtype=torch.long)
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "convolutional": (convolutional, IMAGES),
    "recurrent, shared": (Outer, torch.randn(3, 4, 8)),
    "weight_norm": (old_weight_norm, torch.randn(3, 8)),
    "timm": (vit, IMAGES),
    "transformers": (bert, TOKENS),
}


def logits(model: nn.Module, x: Tensor) -> Tensor:
    out = model(x)
    return getattr(out, "logits", out)  # type: ignore[no-any-return]


def frozen_swap(name: str, **options: Any) -> tuple[Swap, Tensor]:
    build, x = MODELS[name]
    swap = swap_head(build(), 5, x, **options)
    freeze_backbone(swap)
    swap.model.train()
    return swap, x


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_an_export_is_plain_and_otherwise_the_same(name: str) -> None:
    swap, x = frozen_swap(name)
    assert b"pytest_headswap" in pickle.dumps(swap.model), "the hold is part of the frozen model"
    plain = swap.export()
    assert b"pytest_headswap" not in pickle.dumps(plain)
    assert [type(module) for module in plain.modules()] == [type(module) for module in swap.model.modules()]
    assert [m.training for m in plain.modules()] == [m.training for m in swap.model.modules()]
    flags = [parameter.requires_grad for parameter in swap.model.parameters()]
    assert [parameter.requires_grad for parameter in plain.parameters()] == flags
    state = swap.model.state_dict()
    assert plain.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())
    assert torch.equal(logits(plain.eval(), x), logits(swap.model.eval(), x))
    plain.train()
    assert all(module.training for module in plain.modules())


def test_the_exported_model_stays_frozen_itself() -> None:
    swap, _ = frozen_swap("convolutional")
    plain = swap.export()
    swap.model.train()
    assert not swap.model.get_submodule("0.1").training
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert all(parameter.any() for parameter in swap.parameters())


def test_methods_that_the_user_set_are_kept() -> None:
    plain: Any = frozen_swap("recurrent, shared")[0].export()
    assert plain.head.extra_repr() == "mine"
    assert plain.alias is plain.norm is plain.again


def test_wrappers_are_exported_too() -> None:
    model: Any = torch.compile(convolutional(), backend="eager")
    swap = swap_head(model, 5, IMAGES)
    freeze_backbone(swap)
    plain = swap.export()
    assert plain.state_dict().keys() == model.state_dict().keys()
    assert all(module.training for module in plain.train().modules())


def test_an_export_in_the_middle_of_a_stage_keeps_what_trains() -> None:
    swap = swap_head(convolutional(), 5, IMAGES)
    freeze_backbone(swap).unfreeze("0.1")
    plain = swap.export()
    assert b"pytest_headswap" not in pickle.dumps(plain)
    trainable = [name for name, parameter in plain.named_parameters() if parameter.requires_grad]
    assert trainable == ["0.1.weight", "0.1.bias", "1.1.weight", "1.1.bias"]


def test_a_model_that_was_unfrozen_is_plain() -> None:
    model = convolutional()
    frozen = freeze_backbone(model, IMAGES)
    assert b"pytest_headswap" in pickle.dumps(model)
    frozen.unfreeze()
    assert b"pytest_headswap" not in pickle.dumps(model)


def test_a_restored_swap_exports_the_old_head() -> None:
    swap, x = frozen_swap("convolutional")
    swap.restore()
    assert swap.export()(x).shape == (2, 10)


def test_a_model_that_cannot_be_copied_raises_and_stays_frozen() -> None:
    swap, _ = frozen_swap("convolutional")
    swap.model.__dict__["lock"] = threading.Lock()
    with pytest.raises(HeadSwapError, match=r"\[unsupported_model\] Sequential cannot be copied \(TypeError: .*lock"):
        swap.export()
    assert not swap.model.train().get_submodule("0.1").training


def load_elsewhere(model: nn.Module, x: Tensor, folder: Path) -> subprocess.CompletedProcess[str]:
    """Save a model whole, and load it in a process that cannot import this package."""
    torch.save(model, folder / "model.pt")
    flags, modes = [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]
    torch.save((x, logits(model, x).detach(), flags, modes), folder / "expected.pt")
    return subprocess.run([sys.executable, "-c", LOAD], cwd=folder, capture_output=True, text=True, check=False)


def test_an_export_loads_without_this_package(tmp_path: Path) -> None:
    swap, x = frozen_swap("convolutional")
    swap.model.eval()
    done = load_elsewhere(swap.export(), x, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"] * 4


def test_a_frozen_model_saved_whole_does_not_load_unfrozen_without_this_package(tmp_path: Path) -> None:
    swap, x = frozen_swap("convolutional")
    swap.model.eval()
    done = load_elsewhere(swap.model, x, tmp_path)
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
    assert "pytest_headswap" in done.stderr


def test_an_export_loads_with_weights_only_if_its_classes_are_allowed(tmp_path: Path) -> None:
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        pytest.skip("torch 2.6 and later list the classes of a file")
    swap, x = frozen_swap("convolutional")
    swap.model.eval()
    torch.save(swap.export(), tmp_path / "model.pt")
    found = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "model.pt")
    assert found
    assert {name.partition(".")[0] for name in found} == {"torch"}
    classes = {type(module) for module in swap.model.modules()}
    with torch.serialization.safe_globals([*classes, set]):
        model = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(model(x), swap.model(x))


@pytest.mark.parametrize("name", ["convolutional", "recurrent, shared", "timm"])
def test_state_dicts_are_plain(name: str, tmp_path: Path) -> None:
    swap, _ = frozen_swap(name)
    for number, state in enumerate((swap.model.state_dict(), swap.state_dict())):
        torch.save(state, tmp_path / f"{number}.pt")
        loaded = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        assert loaded.keys() == state.keys()
    copy.deepcopy(swap.model).load_state_dict(torch.load(tmp_path / "0.pt", weights_only=True))
